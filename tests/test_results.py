"""The committed results: every number is of runs that are there, of one setting, and rendered from them."""

import csv
import json
import shutil
import subprocess
import sys
from statistics import mean

import pytest

from localsl.analysis import runs
from localsl.config import compose
from localsl.measure.gpu.queue import lines
from localsl.published import numbers as published
from localsl.published.numbers import KEYS
from localsl.runs.identity import digest, identity, run_id
from localsl.runs.stored import Run
from localsl.tables import records
from tests.conftest import ROOT

RESULTS = ROOT / "results"
TABLES = sorted(RESULTS.glob("*/table*.csv"))
RUNS = {run.record["id"]: run for run in records.under(RESULTS / "runs")}


def rows(file):
    with file.open() as lines:
        return list(csv.DictReader(lines))


CELLS = [(file, row) for file in TABLES for row in rows(file) if row["runs"]]


def test_the_queue_of_the_open_questions_is_valid():
    queue = lines(RESULTS / "open_questions.txt")
    assert len({run_id(compose(line.split())) for line in queue}) == len(queue) > 1


def test_there_are_results():
    assert len(TABLES) == len(list((ROOT / "sweeps").glob("*/table*.yaml")))
    assert len(CELLS) >= 4


@pytest.mark.parametrize(("file", "row"), CELLS, ids=lambda value: getattr(value, "stem", ""))
def test_no_cell_mixes_settings(file, row):
    of = [RUNS[run] for run in row["runs"].split()]
    assert int(row["n"]) == len({run.record["seed"] for run in of}) == len(of)
    assert len({run.signature for run in of}) == len({run.setting for run in of}) == 1
    for run in of:
        told = run.record | {"batch_size": run.values["batch_size"], "lr": run.values["optimizer"]["lr"]}
        told |= {"measured_on": run.record["dataset"]}
        told |= {f"{part}_images": count for part, count in run.record["images"].items()}
        for column in ("measured_on", "epochs", "batch_size", "lr", "precision", "train_images", "test_images"):
            assert row[column] == str(told[column])


@pytest.mark.parametrize(("file", "row"), CELLS, ids=lambda value: getattr(value, "stem", ""))
def test_a_cell_of_epochs_is_of_as_many(file, row):
    named = row["variant"].removeprefix("epochs=")
    assert named in (row["variant"], row["epochs"])


def printed(row, *tables):
    """What they print for the rule of a point of the figure: its errors in per cent."""
    wanted = {"dataset": "cifar10", "backbone": "resnet32", "K": row["K"]}
    rule, *more = row["label"].split()
    wanted |= {"method": rule, "base": "", "depth": ""}
    for word in more:
        wanted |= {"depth": word.removeprefix("d=")} if word.startswith("d=") else {"base": word}
    found = set()
    for name in tables:
        for number in published.read(name):
            if wanted.items() <= dict(zip(KEYS, number.keys, strict=True)).items():
                value = float(number.value)
                found.add(f"{100 - value if number.metric == 'top1_acc_pct' else value:.2f}")
    return ", ".join(sorted(found))


def table(file, head):
    """The rows of a document's table whose first line begins so."""
    lines = file.read_text().split(head)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_rules_shows_what_the_figure_does():
    shown = {rule: more for rule, *more in table(ROOT / "docs" / "methods.md", "| rule | modules |")}
    of_figure = {row["label"]: row for row in rows(RESULTS / "ours" / "fig4.csv")}
    assert set(shown) == set(of_figure)
    for label, (modules, auglocal, man_and_mlaan, error, memory) in shown.items():
        row = of_figure[label]
        assert auglocal == printed(row, "auglocal/table1"), label
        assert man_and_mlaan == printed(row, "man/table1", "mlaan/table1"), label
        assert (modules, error) == (row["modules"], row["test_error"])
        assert memory == f"{int(row['peak_memory_bytes']) / 2**20:.0f}"


# Rules by their names in README, in results/README.md and in measurements.
SHOWN = {
    "bp": ("backpropagation", ("bp", "none", None)),
    "auglocal d=6": ("AugLocal, d=6", ("auglocal", "auglocal", 6)),
    "auglocal d=2": ("AugLocal, d=2", ("auglocal", "auglocal", 2)),
    "mlaan": ("MLAAN, linear classifiers", ("mlaan", "0c1f", None)),
    "man on DGL": ("MAN on DGL", ("man", "dgl", None)),
    "dgl": ("DGL", ("dgl", "dgl", None)),
    "infopro": ("InfoPro", ("infopro", "1c2f", None)),
    "predsim": ("PredSim", ("predsim", "predsim", None)),
}


def gigabytes(method, aux, depth):
    """Traced peaks of a step of ResNet-32 at batch 1024; the forms of a rule need the same."""
    records = [json.loads(file.read_text()) for file in (RESULTS / "measured").glob("memory-*.json")]
    wanted = {"method": method, "aux": aux, "depth": depth, "backbone": "resnet32", "batch_size": 1024}
    wanted |= {"precision": "fp32", "memory": "plain", "image_size": 32}
    found = {f"{r['figures']['peak_bytes'] / 1e9:.2f} GB" for r in records if wanted.items() <= r.items()}
    (only,) = found
    return only


def times_on_a_gpu():
    """Steps beside backpropagation's, by method and depth."""
    return {
        (row["method"], int(row["depth"]) if row["depth"] else None): f"{float(row['ratio_to_bp']):.2f}"
        for row in rows(RESULTS / "bench" / "nvidia-h200.csv")
        if row["batch_size"] == "1024" and (row["precision"], row["cuda_graph"]) == ("fp32", "True")
    }


def test_both_readmes_show_what_runs_and_measurements_have():
    of_rules = {rule.replace("`", ""): more for rule, *more in table(RESULTS / "rules.md", "| rule | paper |")}
    readme = {
        rule.replace("`", ""): more for rule, *more in table(ROOT / "README.md", "| rule | accuracy here |")
    }
    page = {rule: more for rule, *more in table(RESULTS / "README.md", "| rule | accuracy | seeds |")}
    times = times_on_a_gpu()
    assert set(readme) == set(SHOWN)
    assert set(page) == {name for name, _ in SHOWN.values()}
    for rule, (name, (method, aux, depth)) in SHOWN.items():
        _, *seeds, published_gap, gap, _ = of_rules[rule]
        known = [float(value) for value in seeds if value]
        accuracy = f"{mean(known) + 1e-9:.1f}"  # halves are rounded up
        gaps = [f"{float(value):.1f}" if value else "" for value in (gap, published_gap)]
        memory = gigabytes(method, aux, depth)
        assert readme[rule] == [accuracy, *gaps, memory, times[method, depth]]
        told = ", ".join(f"{value:.1f}" for value in known) + (" (one)" if len(known) == 1 else "")
        assert page[name] == [accuracy, told, *gaps, memory]


def test_the_results_tell_what_the_runs_have():
    """Rules side by side: accuracies of seeds 0 and 1, and how far their mean is below backpropagation's."""
    told = table(RESULTS / "rules.md", "| rule | paper |")
    of = {rule: [RUNS[run] for run in more[-1].split()] for rule, *more in told}
    assert len({run.setting for among in of.values() for run in among}) == 1
    accuracy = {
        rule: {run.record["seed"]: run.record["last"]["test_accuracy"] for run in among}
        for rule, among in of.items()
    }
    for rule, _, *seeds, _, below, _ in told:
        assert seeds == [f"{found:.2f}" if (found := accuracy[rule].get(seed)) else "" for seed in (0, 1)]
        assert len({run.signature for run in of[rule]}) == 1
        gap = mean(accuracy["bp"].values()) - mean(accuracy[rule].values())
        assert below == (f"{gap:.2f}" if rule != "bp" else "")


def test_no_point_of_the_figure_mixes_settings():
    settings = (
        "dataset",
        "backbone",
        "epochs",
        "train_images",
        "batch_size",
        "lr",
        "precision",
        "seed",
        "scope",
    )
    points = rows(RESULTS / "ours" / "fig4.csv")
    assert len({tuple(row[name] for name in settings) for row in points}) == 1
    assert len({RUNS[row["run"]].setting for row in points}) == 1


def test_every_run_can_be_analysed():
    """Fields that joined the schema since have defaults."""
    told = {run.cfg.seed for run in runs.found([str(run.folder) for run in RUNS.values()], compose())}
    assert told == {run.record["seed"] for run in RUNS.values()}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_every_run_can_be_traced(run: Run):
    assert run.record["id"] == run.folder.name == digest(identity(run.values))
    assert run.record["seed"] == run.values["seed"]
    assert run.record["epochs"] == run.values["schedule"]["epochs"] == len(rows(run.folder / "metrics.csv"))
    assert run.record["precision"] == run.values["precision"]
    assert len(run.record["commit"]) == 40  # with no "+": of a state that is committed
    assert run.record["device"]
    assert run.record["versions"]["torch"]
    last = rows(run.folder / "metrics.csv")[-1]
    assert float(last["test_accuracy"]) == run.record["last"]["test_accuracy"]


@pytest.mark.parametrize("file", sorted((RESULTS / "measured").glob("*-*.json")), ids=lambda file: file.stem)
def test_every_measurement_can_be_traced(file):
    record = json.loads(file.read_text())
    assert file.stem.startswith(f"{record['measure']}-{record['signature']}")
    assert len(record["commit"]) == 40
    assert record["device"]
    assert record["versions"]["torch"]


@pytest.mark.parametrize(
    ("typed", "made"),
    [
        (["sweep=all", "schedule=paper"], ["*/table*.csv", "*/table*.md"]),
        (["sweep=ours/fig3,ours/fig4", "seed=0"], ["ours/fig[34].csv"]),  # 1 and 2: from checkpoints
    ],
    ids=["tables", "figures"],
)
def test_rendering_the_records_makes_what_is_committed(typed, made, tmp_path):
    committed = [file for pattern in made for file in RESULTS.glob(pattern)]
    results = shutil.copytree(RESULTS, tmp_path / "results")
    for file in committed:
        (results / file.relative_to(RESULTS)).unlink()
    command = [sys.executable, str(ROOT / "run.py"), "-m", *typed, "show=tables"]
    places = [f"results_dir={results}", f"output_dir={tmp_path / 'outputs'}"]
    subprocess.run([*command, *places], check=True, capture_output=True)
    assert committed
    for file in committed:
        assert (results / file.relative_to(RESULTS)).read_text() == file.read_text(), file
