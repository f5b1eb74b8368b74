"""The committed results: every number is of runs that are there, of one setting, and rendered from them."""

import csv
import shutil
import subprocess
import sys

import pytest

from localsl.identity import digest, identity
from localsl.tables import published, records
from localsl.tables.published import KEYS
from localsl.tables.records import Run
from tests.conftest import ROOT

RESULTS = ROOT / "results"
TABLES = sorted(RESULTS.glob("*/table*.csv"))
RUNS = {run.record["id"]: run for run in records.under(RESULTS / "runs")}


def rows(file):
    with file.open() as lines:
        return list(csv.DictReader(lines))


CELLS = [(file, row) for file in TABLES for row in rows(file) if row["runs"]]


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


def printed(row):
    """What the papers print for the rule of a point of the figure: its errors in per cent."""
    wanted = {"dataset": "cifar10", "backbone": "resnet32", "K": row["K"]}
    rule, *more = row["label"].split()
    wanted |= {"method": rule, "base": "", "depth": ""}
    for word in more:
        wanted |= {"depth": word.removeprefix("d=")} if word.startswith("d=") else {"base": word}
    found = set()
    for name in ("auglocal/table1", "man/table1", "mlaan/table1"):
        for number in published.read(name):
            if wanted.items() <= dict(zip(KEYS, number.keys, strict=True)).items():
                value = float(number.value)
                found.add(f"{100 - value if number.metric == 'top1_acc_pct' else value:.2f}")
    return found


def test_the_readme_shows_what_the_figure_does():
    told = (ROOT / "README.md").read_text().split("| rule | paper |")[1].split("\n\n")[0].splitlines()[2:]
    of_readme = {
        cells[0]: cells[1:] for line in told if (cells := [c.strip(" `") for c in line.strip("|").split("|")])
    }
    of_figure = {row["label"]: row for row in rows(RESULTS / "ours" / "fig4.csv")}
    assert set(of_readme) == set(of_figure)
    for label, (paper, error, memory, hours) in of_readme.items():
        row = of_figure[label]
        assert set(paper.split(", ")) == printed(row), label
        assert error == row["test_error"]
        assert memory == f"{int(row['peak_memory_bytes']) / 2**20:.0f}"
        assert hours == f"{int(row['seconds']) / 3600:.1f}"
        assert row["test_error"] == f"{100 - RUNS[row['run']].record['last']['test_accuracy']:.2f}"


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


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_every_run_can_be_traced(run: Run):
    assert run.record["id"] == run.folder.name == digest(identity(run.values))
    assert run.record["seed"] == run.values["seed"]
    assert run.record["epochs"] == run.values["schedule"]["epochs"] == len(rows(run.folder / "metrics.csv"))
    assert run.record["precision"] == run.values["precision"]
    assert len(run.record["commit"].rstrip("+")) == 40
    assert run.record["device"]
    assert run.record["versions"]["torch"]
    last = rows(run.folder / "metrics.csv")[-1]
    assert float(last["test_accuracy"]) == run.record["last"]["test_accuracy"]


def test_rendering_the_records_makes_the_committed_tables(tmp_path):
    results = shutil.copytree(RESULTS, tmp_path / "results")
    for file in results.glob("*/table*.csv"):
        file.unlink()
    command = [sys.executable, str(ROOT / "run.py"), "-m", "sweep=all", "schedule=paper", "show=tables"]
    subprocess.run(
        [*command, f"results_dir={results}", f"output_dir={tmp_path / 'outputs'}"],
        check=True,
        capture_output=True,
    )
    for file in TABLES:
        assert (results / file.relative_to(RESULTS)).read_text() == file.read_text(), file
