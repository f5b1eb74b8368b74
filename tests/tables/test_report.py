"""The page of all results: what it shows, and that it needs no network; test_report_browser.py opens it."""

import base64
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from localsl.config import compose
from localsl.published import numbers as published
from localsl.runs import identity
from localsl.tables import report, structures, sweep_files, sweeps
from localsl.tables.report import curves, pictures, progress
from tests.conftest import ROOT
from tests.helpers.report import DGL, finished, gathered, written


@pytest.fixture(autouse=True)
def no_networks(monkeypatch):
    """Without building the networks of AugLocal's Table 6, which tests/tables/test_tables.py does."""
    monkeypatch.setattr(structures, "of_stage", lambda cell: "64R-AP-10FC")


@pytest.fixture
def two_seeds():
    return [finished(DGL, seed, 80 + 2 * seed) for seed in (0, 1)]


class Tables(HTMLParser):
    """The texts of all cells by the table's label; every tag closed, every id once."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.heads, self.open, self.ids = {}, [], [], []
        self.feed(text)
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        if attrs.get("role") == "region":
            self.rows = self.tables.setdefault(attrs["aria-label"], [])
        if tag == "tr":
            self.rows.append([])
            self.heads += [self.rows[-1]] if "thead" in self.open else []
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "path", "use", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "use"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def of(self, label):
        """The rows of all tables with this label, each by its own head."""
        found, head = [], []
        for row in self.tables[label]:
            if any(row is other for other in self.heads):
                head = row
            else:
                found.append(dict(zip(head, row, strict=True)))
        return found


def test_without_results_every_published_number_is_there():
    text = written().read_text()
    tables = Tables(text)
    for name in sweep_files.every():
        table = sweep_files.read(name)
        shown = [row["paper"] for label in (table.title, f"To run for {name}") if label in tables.tables
                 for row in tables.of(label)]  # fmt: skip
        for number in published.read(name):
            assert number.value + (f" ± {number.std}" if number.std else "") in shown
    assert "Of 620 published numbers, 0 are measured by training at the paper's length, 0 by shortened" in text
    assert "equals BP's mean to the digit" in unescape(text)
    assert "Nothing is measured yet" in text
    assert "make table1 PAPER=man" in text


def test_a_number_has_ours_beside_it(two_seeds):
    row = Tables(written("man/table4").read_text()).of("Moving average and learnable bias of MAN")[0]
    assert (row["paper"], row["ours"], row["n"]) == ("14.08", "19.00 ± 1.41", "2")
    assert (row["difference"], row["best epoch"]) == ("+4.92", "19.00 ± 1.41")
    assert (row["rule"], row["setting"], row["status"]) == ("DGL", "S1", "2 of 5 seeds")
    text = written("man/table4").read_text()
    assert "Measured: 4a · CIFAR-10 · ResNet-32 · K=16 · ema=0,bias=0 · test error (%)" in text
    assert "S1: schedule=paper with 3 epochs, 50000 training images of cifar10, batch size 1024" in text
    assert "Of 9 published numbers, 1 are measured by training at the paper's length, 0 by shortened" in text


def test_runs_of_fewer_epochs_than_the_table_asks_for_are_shortened(two_seeds):
    text = written("man/table4", epochs=400).read_text()
    row = Tables(text).of("Moving average and learnable bias of MAN")[0]
    assert row["status"] == "shortened"
    assert "Of 9 published numbers, 0 are measured by training at the paper's length, 1 by shortened" in text
    assert 'title="Table 4, ' in text
    assert "1 of 9 numbers measured, 1 by shortened training" in text
    (missing, *_) = Tables(text).of("To run for man/table4")
    assert "schedule.epochs" not in missing["command"]  # at the paper's length, unlike the run


def test_what_is_not_measured_is_folded(two_seeds):
    text = written("man/table4").read_text()
    assert [row["ours"] for row in Tables(text).of("Moving average and learnable bias of MAN")] == [
        "19.00 ± 1.41"
    ]
    folded = re.findall(r"<details[^>]*><summary>(.*?)</summary>", text)
    assert not re.search(r"<details[^>]* open", text)
    assert any(told.startswith("To run: 1 with fewer seeds, 8 missing") for told in folded)
    inside = text[text.index("To run: ") : text.index("</details>", text.index("To run: "))]
    assert "11.07" in inside  # a number of the paper that nothing was run for


def test_progress_is_a_matrix_of_papers_by_tables(two_seeds):
    text = written("man,mlaan").read_text()
    lines = re.findall(r'<div class="line" role="row">(.*?)</div>\n', text, re.DOTALL)
    papers = [re.search(r'role="rowheader">([^<]*)<', line)[1] for line in lines]
    assert papers == [progress.PAPERS["man"], progress.PAPERS["mlaan"]]
    cells = [re.findall(r'href="#([\w-]+)" title="([^"]*)"', line) for line in lines]
    assert [[name for name, _ in of_paper] for of_paper in cells] == [
        [f"{paper}-table{i}" for i in range(1, 6)] for paper in ("man", "mlaan")
    ]
    told = dict(cells[0])["man-table4"]
    assert told.endswith("1 of 9 numbers measured, 1 with fewer seeds")
    assert 'style="--full:0%;--some:11%"' in lines[0]
    assert text.index('class="matrix"') < text.index('id="filters"') < text.index('id="man"')


def test_every_line_and_curve_says_what_it_is_of(two_seeds):
    text = written("man/table4").read_text()
    rows = re.findall(r"<tr( data-[^>]*)?><td", text)
    of = ' data-dataset="cifar10" data-backbone="resnet32" data-rule="dgl"'
    assert rows.count(of) == 1 + 1 + 1  # measured, to run with more seeds, and the configuration of the runs
    assert f'<figure class="run"{of}' in text
    names = re.findall(r'<option value="(\w+)">([^<]*)', text)
    assert ("cifar10", "CIFAR-10") in names
    assert ("dgl", "DGL") in names
    assert ("predsim", "PredSim") not in names  # nothing here is of it


def test_figures_are_inside_the_page(tmp_path):
    folder = Path("results/ours")
    folder.mkdir(parents=True)
    Path("results/man").mkdir()
    source = ROOT / "results"
    (folder / "fig4.png").write_bytes((source / "ours" / "fig4.png").read_bytes())
    Path("results/man/table1.png").write_bytes((source / "man" / "table1.png").read_bytes())
    text = written("man").read_text()
    found = re.findall(
        r'<img src="data:image/png;base64,([^"]*)" width="(\d+)" height="(\d+)" alt="([^"]*)">', text
    )
    assert [alt for *_, alt in found] == [sweep_files.read(name).title for name in ("ours/fig4", "man/table1")]
    assert base64.b64decode(found[0][0]) == (folder / "fig4.png").read_bytes()
    assert all(int(width) > 200 and int(height) > 100 for _, width, height, _ in found)
    assert pictures.inline(folder / "fig9.png", "none") == ""


def test_every_setting_has_a_line(two_seeds):
    finished([*DGL, "batch_size=128"], 0, 90)
    rows = Tables(written("man/table4").read_text()).of("Moving average and learnable bias of MAN")
    assert sorted((row["ours"], row["setting"]) for row in rows[:2]) == [
        ("10.00", "S2"),
        ("19.00 ± 1.41", "S1"),
    ]


def test_what_is_missing_is_listed_with_its_command(two_seeds):
    missing = Tables(written("man/table4").read_text()).of("To run for man/table4")
    assert [row["status"] for row in missing] == ["2 of 5 seeds", *["missing"] * 8]
    typed = "python run.py -m method=man aux_net=dgl ema.bias=none dataset=cifar10 backbone=resnet32 K=16"
    assert missing[1]["command"] == f"{typed} seed=0,1,2,3,4"
    # The cell with two seeds goes on with their setting: the first two of its five runs are those.
    jobs = sweeps.jobs(missing[0]["command"].split()[3:])
    assert len(jobs) == 5
    assert [identity.run_id(compose(list(job.overrides))) for job in jobs[:2]] == two_seeds


def test_costs_are_measured_by_their_own_command():
    tables, made, runs = gathered("auglocal/table11")
    found = {"ours_mean": "0.80", "difference": "+0.01", "status": "done", "batch_size": 1024}
    made[tables[0].name][0] |= found | {"measured_on": "flops: multiply-adds", "precision": "fp32"}
    text = report.write(Path("results"), tables, made, runs).read_text()
    assert (
        "0 by shortened training (fewer epochs or images: not comparable with the paper's), and 1 as memory"
        in text
    )
    assert "S1: flops: multiply-adds, batch size 1024, fp32" in text
    assert Tables(text).of(tables[0].title)[0]["setting"] == "S1"
    missing = Tables(text).of("To run for auglocal/table11")
    assert len(missing) == 24
    assert all(row["command"].endswith(" measure=flops") for row in missing)


def test_runs_are_drawn_together_by_configuration(two_seeds):
    extra = finished(["method=bp", "dataset=cifar10", "backbone=resnet32"], 0, 95, modules=1)
    text = written("man/table4").read_text()
    drawings = re.findall(r'<svg viewBox[^>]* aria-label="([^"]*)">(.*?)</svg>', text)
    own = {label: re.findall(r'<path class="own[^"]*" d="([^"]*)"', drawn) for label, drawn in drawings}
    dgl = "DGL ema=0,bias=0 K=16: "
    points = {label.removeprefix(dgl): [d.count(",") for d in lines] for label, lines in own.items()}
    assert points == {
        "BP: test accuracy (%)": [3],
        f"BP: {curves.LOSS}": [3, 3],
        "test accuracy (%)": [3, 3],
        curves.LOSS: [3, 3, 3, 3],
        "training accuracy by module (%)": [15, 15],
    }
    rows = Tables(text).of("CIFAR-10, ResNet-32, S1")
    assert [row["ids"].split() for row in rows] == [[extra], two_seeds]
    assert [row["peak memory"] for row in rows] == ["3.0 MiB", "3.0 MiB"]
    assert "peak memory: live tensors" in text


def test_a_long_curve_is_thinned_and_keeps_its_ends(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("epoch,test_accuracy\n" + "".join(f"{i},{i / 10}\n" for i in range(1, 401)))
    points = next(curves.read(file)).points
    assert (points[0], points[-1]) == ((1, 0.1), (400, 40))
    assert 100 < len(points) <= curves.POINTS + 1


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1, 3, [1, 1.5, 2, 2.5, 3]),
        (9.77, 92.1, [20, 40, 60, 80]),
        (0.81, 0.83, [0.81, 0.815, 0.82, 0.825, 0.83]),
    ],
)
def test_ticks_are_round_numbers_within_the_range(low, high, ticks):
    assert curves._ticks(low, high) == pytest.approx(ticks)


def test_ticks_of_losses_are_powers_of_ten_or_between():
    assert curves._powers(-1.1, 0.4) == pytest.approx([-1, -0.69897, -0.30103, 0, 0.30103])
    assert curves._powers(-3.5, 4.6) == [-3, -2, -1, 0, 1, 2, 3, 4]


def test_a_run_without_metrics_says_so(two_seeds):
    for name in two_seeds:
        (Path("results/runs") / name / "metrics.csv").unlink()
    assert "There is no metrics.csv." in written("man/table4").read_text()


def test_a_paper_has_one_section_however_its_tables_are_named():
    text = written("man/table4,mlaan/table4,man/table5").read_text()
    assert re.findall(r'<section id="(\w+)"><h2>', text) == ["man", "mlaan"]
    Tables(text)


def test_texts_are_escaped(two_seeds):
    (table,), made, runs = gathered("man/table4")
    made[table.name][0]["note"] = '<script>alert("x")</script>'
    table = replace(table, title="<b>bold</b>")
    text = report.write(Path("results"), [table], made, runs).read_text()
    assert "<b>bold" not in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert "A &lt;fast&gt; &amp; small one" in text
    Tables(text)


def test_the_page_needs_no_network_and_is_always_the_same(two_seeds):
    file = written("man")
    first = file.read_bytes()
    for outside in (b"http://", b"https://", b"<script src", b"<link", b"@import", b"url("):
        assert outside not in first
    assert written("man").read_bytes() == first
    assert [path.name for path in file.parent.iterdir()].count("index.html") == 1
