"""The notebooks run with and without results, and show the numbers of these results."""

import json
import os
from dataclasses import asdict, replace

import jupytext
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from omegaconf import OmegaConf

from localsl.config import compose
from localsl.measure import runner
from localsl.runs.identity import run_id
from localsl.tables import frames, records, render, sweeps
from localsl.tables.results import Composed, rows
from tests.conftest import ROOT

NOTEBOOKS = sorted(file.stem for file in (ROOT / "notebooks").glob("*.py"))
SCOPE = "live tensors of a made-up step"

TABLES = ["auglocal/table1", "man/table1", "mlaan/table1", "mlaan/table3"]

# Cells of the tables, with the last test accuracy of every seed.
BP = ("method=bp", "dataset=cifar10", "backbone=resnet32")
ACCURACIES = {
    BP: (94.5,),
    ("method=dgl", "dataset=cifar10", "backbone=resnet32", "K=16"): (81.25, 83.75),
    ("method=man", "aux_net=dgl", "dataset=cifar10", "backbone=resnet32", "K=16"): (91.5,),
    ("method=dgl", "dataset=cifar10", "backbone=resnet110", "K=55"): (77.75,),
}


def write_run(folder, cfg, accuracy):
    """Write a run of three epochs in the form that `records.keep` writes."""
    run = folder / run_id(cfg)
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(OmegaConf.to_yaml(asdict(cfg)))
    lines = ["epoch,train_loss,train_accuracy,test_loss,test_accuracy,module_0_loss"]
    lines += [f"{e},{3 - e / 2},{accuracy + e},0.5,{accuracy - 3 + e}," for e in (1, 2, 3)]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    last = {"epoch": 3, "test_accuracy": accuracy, "test_loss": 0.5}
    record = {"status": "done", "id": run.name, "seed": cfg.seed, "method": cfg.method.name, "K": cfg.K}
    record |= {"dataset": cfg.dataset.name, "backbone": cfg.backbone.name, "modules": 16, "device": "none"}
    record |= {"schedule": "paper", "epochs": cfg.schedule.epochs, "precision": "fp32", "commit": None}
    record |= {"images": {"train": 50_000, "test": 10_000}, "versions": {"torch": "2"}}
    record |= {"last": last, "best": last, "peak_memory_scope": SCOPE}
    record["peak_memory_bytes"] = round(accuracy * 2**20)
    (run / "record.json").write_text(json.dumps(record))


def write_measurement(folder, cfg, gigabytes):
    """Write the record of `measure=memory` for a configuration."""
    file = runner.recorded(cfg, folder)
    file.parent.mkdir(parents=True)
    record = {"status": "done", "measure": "memory", "scope": SCOPE, "precision": "fp32", "batch_size": 1024}
    record |= {"figures": {"peak_bytes": gigabytes * 1e9}, "versions": {"torch": "2"}}
    record |= {"device": "none", "commit": None}
    file.write_text(json.dumps(record))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of results whose tables are mostly empty."""
    folder = tmp_path_factory.mktemp("results")
    configs = {overrides: compose(list(overrides)) for overrides in ACCURACIES}
    for overrides, accuracies in ACCURACIES.items():
        for seed, accuracy in enumerate(accuracies):
            write_run(folder / "runs", replace(configs[overrides], seed=seed), accuracy)
    memory = replace(configs[BP], measure="memory", output_dir=str(folder), results_dir=str(folder))
    configs[sweeps.measuring(BP, "memory")] = memory
    write_measurement(folder, memory, 3.21)
    request = sweeps.requested([f"sweep={','.join(TABLES)}"])
    for table in request.tables:
        render.write(folder, table, rows(table, Composed(request, configs), records.under(folder / "runs")))
    return folder


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One kernel for all notebooks, since most of its time is spent on imports."""
    folder = tmp_path_factory.mktemp("kernel")
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(folder), env=os.environ | {"IPYTHONDIR": str(folder)})
    yield manager
    manager.shutdown_kernel(now=True)


def shown(name, folder, kernel):
    """Execute a notebook on a folder of results; returns the text of all of its outputs, each with its kind."""
    notebook = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    reset = "%reset -f\nimport os\nos.environ.pop('LOCALSL_RUNS', None)\n"
    reset += f"os.environ['LOCALSL_RESULTS'] = {str(folder)!r}\ndel os"
    notebook.cells.insert(0, new_code_cell(reset))
    NotebookClient(notebook, timeout=120, km=kernel).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(f"{kind}: {text}" for output in outputs for kind, text in output.get("data", {}).items())


def test_there_are_three_notebooks():
    assert NOTEBOOKS == ["curves", "memory", "tables"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_alternates_text_and_code(name):
    notebook = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds == ["markdown", "code"] * (len(kinds) // 2)
    assert notebook.metadata["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize(
    ("name", "words"),
    [("curves", "No runs of man/table1"), ("memory", "No runs of a table"), ("tables", "No tables in")],
)
def test_a_notebook_without_results_shows_a_message(name, words, kernel):
    assert words in shown(name, "nowhere", kernel)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("curves", ["dgl K=16", "man on dgl K=16", "85.50", "82.50", "94.50", "image/png"]),
        ("memory", ["2.62", "mlaan K=16", "3.21", "man on dgl K=16", "83.75", "17.50", SCOPE, "image/png"]),
        ("tables", ["14.08", "17.50 ± 1.77", "+3.42", "-0.16", "2 of 5 seeds", "missing", "400 epochs", SCOPE]),
    ],
)
def test_a_notebook_shows_the_numbers_of_the_results(name, words, results, kernel):
    text = shown(name, results, kernel)
    for word in words:
        assert word in text


def test_data_frames_have_the_tables_the_runs_behind_them_and_their_epochs(results):
    tables = frames.results(results)
    assert list(tables["table"].unique()) == TABLES
    assert len(tables) == 54 + 78 + 66 + 10
    assert tables.loc[tables["metric"] == "gpu_memory_gb", "ours_mean"].dropna().tolist() == [3.21]
    behind = frames.behind(tables)
    of_man = behind[behind["table"] == "man/table1"]
    assert sorted(of_man["label"]) == ["bp", "dgl K=16", "dgl K=16", "dgl K=55", "man on dgl K=16"]
    runs, epochs = frames.runs(results), frames.epochs(results / "runs")
    assert set(runs["id"]) == set(epochs["id"]) == set(behind["id"])
    assert dict(zip(epochs["id"], epochs["test_accuracy"], strict=True)) == dict(
        zip(runs["id"], 100 - runs["test_error"], strict=True)
    )
    assert len(epochs) == 3 * len(runs)


def test_data_frames_leave_out_a_run_that_is_not_done(results, tmp_path):
    file = next((results / "runs").glob("*/record.json"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "record.json").write_text(file.read_text().replace('"done"', '"running"'))
    assert frames.runs(tmp_path).empty
    assert frames.epochs(tmp_path).empty
