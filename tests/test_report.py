"""The page of all results: what it shows, that it needs no network, and what a browser makes of it."""

import csv
import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from localsl.config import compose
from localsl.published import numbers as published
from localsl.runs import identity
from localsl.tables import curves, records, render, report, structures, sweeps
from localsl.tables.render import Composed

DGL = ("method=dgl", "dataset=cifar10", "backbone=resnet32", "K=16")
EPOCHS = 3


@pytest.fixture(autouse=True)
def no_networks(monkeypatch):
    """Without building the networks of AugLocal's Table 6, which tests/test_tables.py does."""
    monkeypatch.setattr(structures, "of_stage", lambda cell: "64R-AP-10FC")


composed = cache(lambda *overrides: compose(list(overrides)))


def finished(overrides, seed, accuracy, modules=16):
    """A run's folder among the results, as a run leaves it."""
    cfg = replace(composed(*overrides, f"schedule.epochs={EPOCHS}"), seed=seed)
    folder = Path("results/runs") / identity.run_id(cfg)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(asdict(cfg)))
    rows = []
    for epoch in range(1, EPOCHS + 1):
        row = {"epoch": epoch, "lr": 0.1, "train_loss": 2 / epoch, "train_accuracy": 50.0}
        row |= {"test_loss": 2.5 / epoch, "test_accuracy": accuracy - EPOCHS + epoch, "images_per_s": 9.5}
        for i in range(modules):  # one has no classifier of its own
            row |= {f"module_{i}_loss": 1.5, f"module_{i}_accuracy": "" if i == 2 else 30.0 + i}
        rows.append(row)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    told = {key: rows[-1][key] for key in ("epoch", "test_accuracy", "test_loss")}
    record = {"status": "done", "id": folder.name, "method": cfg.method.name, "dataset": cfg.dataset.name}
    record |= {"backbone": cfg.backbone.name, "K": cfg.K, "modules": modules, "seed": cfg.seed}
    record |= {"precision": "fp32", "schedule": "paper", "epochs": EPOCHS, "last": told, "best": told}
    record |= {"images": {"train": 40, "test": 20}, "parameters": {"backbone": 10, "with_auxiliary": 20}}
    record |= {"versions": {"torch": "2.15.0"}, "device": "A <fast> & small one", "commit": None}
    record |= {"seconds": 12.3, "peak_memory_bytes": 3 * 2**20, "peak_memory_scope": "live tensors"}
    (folder / "record.json").write_text(json.dumps(record))
    return record["id"]


def gathered(name):
    """These tables, their rows and all runs in results/runs: what `report.write` takes."""
    request = sweeps.requested([f"sweep={name}"])
    runs = records.under(Path("results/runs"))
    configs = Composed(request, {DGL: composed(*DGL)})
    return request.tables, {table.name: render.rows(table, configs, runs) for table in request.tables}, runs


def written(name="all"):
    return report.write(Path("results"), *gathered(name))


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
        if tag not in ("meta", "path", "use"):
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
    for name in sweeps.every():
        table = sweeps.read(name)
        shown = [row["paper"] for row in tables.of(table.title)]
        for number in published.read(name):
            assert number.value + (f" ± {number.std}" if number.std else "") in shown
    assert "0 of 620 published numbers have a measurement." in text
    assert "equals BP's mean to the digit" in unescape(text)
    assert "<dt>not built</dt><dd>0</dd>" in text
    assert "Nothing is measured yet" in text
    assert "make table1 PAPER=man" in text


def test_a_number_has_ours_beside_it(two_seeds):
    row = Tables(written("man/table4").read_text()).of("Moving average and learnable bias of MAN")[0]
    assert (row["paper"], row["ours"], row["n"]) == ("14.08", "19.00 ± 1.41", "2")
    assert (row["difference"], row["best epoch"]) == ("+4.92", "19.00 ± 1.41")
    assert (row["setting"], row["status"]) == ("S1", "2 of 5 seeds")
    text = written("man/table4").read_text()
    assert "S1: 3 epochs in the form of schedule=paper, 40 training images of cifar10, batch 1024" in text
    assert "1 of 9 published numbers have a measurement." in text


def test_every_setting_has_a_line(two_seeds):
    finished([*DGL, "batch_size=128"], 0, 90)
    rows = Tables(written("man/table4").read_text()).of("Moving average and learnable bias of MAN")
    assert sorted((row["ours"], row["setting"]) for row in rows[:2]) == [
        ("10.00", "S2"),
        ("19.00 ± 1.41", "S1"),
    ]


def test_what_is_missing_is_listed_with_its_command(two_seeds):
    missing = Tables(written("man/table4").read_text()).of("Missing from man/table4")
    assert [row["status"] for row in missing] == ["2 of 5 seeds", *["missing"] * 5]
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
    assert "1 of 25 published numbers have a measurement." in text
    assert "S1: flops: multiply-adds, batch 1024, fp32" in text
    assert Tables(text).of(tables[0].title)[0]["setting"] == "S1"
    missing = Tables(text).of("Missing from auglocal/table11")
    assert len(missing) == 24
    assert all(row["command"].endswith(" measure=flops") for row in missing)


def test_runs_are_drawn_together_by_configuration(two_seeds):
    extra = finished(["method=bp", "dataset=cifar10", "backbone=resnet32"], 0, 95, modules=1)
    text = written("man/table4").read_text()
    drawings = re.findall(r'<svg viewBox[^>]* aria-label="([^"]*)">(.*?)</svg>', text)
    own = {label: re.findall(r'<path class="own[^"]*" d="([^"]*)"', drawn) for label, drawn in drawings}
    dgl = "dgl ema=0,bias=0 K=16: "
    points = {label.removeprefix(dgl): [d.count(",") for d in lines] for label, lines in own.items()}
    assert points == {
        "bp: test accuracy (%)": [3],
        f"bp: {curves.LOSS}": [3, 3],
        "test accuracy (%)": [3, 3],
        curves.LOSS: [3, 3, 3, 3],
        "training accuracy by module (%)": [15, 15],
    }
    rows = Tables(text).of("cifar10, resnet32, S1")
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


# Appended to a copy of the page: clicks a header three times and tells what a reader would then see.
PROBE = """<script>
const told = {}, table = document.querySelector("#man-table1 ~ .scroll table");
const paper = [...table.tHead.rows[0].cells].findIndex(head => head.textContent === "paper");
const column = () => [...table.tBodies[0].rows].map(row => row.cells[paper].textContent);
const button = table.tHead.rows[0].cells[paper].querySelector("button");
told.none = column();
for (const order of ["ascending", "descending", "again"]) {
  button.click();
  told[order] = column();
  told[order + "-aria"] = button.parentNode.getAttribute("aria-sort");
}
button.focus();
told.focused = document.activeElement === button;
told.open = document.querySelectorAll("details").length;
document.querySelectorAll("details").forEach(part => { part.open = true; });
told.page = document.documentElement.scrollWidth;
told.window = window.innerWidth;
told.scrolls = getComputedStyle(table.parentNode).overflowX;
parent.postMessage(told, "*");
</script>"""

# A window has a least width, which is above a phone's; a frame is as narrow as it is made.
FRAME = """<iframe src="probed.html" width="360" height="800"></iframe><script>
onmessage = event => document.body.replaceChildren(JSON.stringify(event.data));
</script>"""


def test_a_browser_sorts_it_and_fits_it_into_360_pixels(two_seeds, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs chromium: apt-get install chromium")
    page, frame = tmp_path / "probed.html", tmp_path / "frame.html"
    page.write_text(written().read_text().replace("</body>", f"{PROBE}</body>"))
    frame.write_text(f"<body>{FRAME}</body>")
    line = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    line += ["--virtual-time-budget=5000", "--dump-dom", frame.as_uri()]
    dom = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout
    told = json.loads(unescape(re.search(r"<body>(.*)</body>", dom, re.DOTALL)[1]))
    values = [float(value.split(" ")[0]) for value in told["none"]]
    assert len(values) == 78
    assert [float(value) for value in told["ascending"]] == sorted(values)
    assert [float(value) for value in told["descending"]] == sorted(values, reverse=True)
    assert told["again"] == told["none"]
    states = [told[f"{order}-aria"] for order in ("ascending", "descending", "again")]
    assert states == ["ascending", "descending", None]
    assert told["focused"]
    assert told["open"] > 10
    assert told["page"] <= told["window"] == 360
    assert told["scrolls"] == "auto"
