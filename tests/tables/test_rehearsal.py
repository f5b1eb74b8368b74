"""Rehearsals: a training step and an evaluation of every cell, and the table that they fill."""

import subprocess
from pathlib import Path

import pytest
import torch

from localsl.config import compose
from localsl.config.building import build_network
from localsl.core.settings import LocalslError
from localsl.execution.bounded import Outcome
from localsl.measure import rehearsal as one
from localsl.measure.rehearsal import Rehearsed, reduced, rehearse, synthetic_data, trace, without_gradient
from localsl.runs import classification, provenance
from localsl.tables import rehearsal, sweep_files, sweeps
from localsl.tables.rehearsal import GIB, read
from tests.conftest import ROOT
from tests.helpers.command import typed

DGL = ["method=dgl", "backbone=resnet20", "K=3"]

GRID = """
title: Toys
seeds: 2
layout: {rows: [method], columns: [metric]}
analysis: analysis=accuracy
grids:
  - run: method=bp,dgl backbone=resnet20 K=3
  - run: method=dgl backbone=resnet20 K=3
    keys: {variant: again}
"""


def test_a_rehearsal_counts_what_the_network_has():
    network = build_network(compose(DGL))
    found = rehearse(DGL)
    assert (found.modules, found.traced) == (3, None)
    assert found.network == sum(p.numel() for p in network.backbone.parameters())
    assert found.network + found.auxiliary == sum(p.numel() for p in network.parameters())


def test_a_trace_finds_the_same_and_a_peak():
    found = trace(DGL)
    assert vars(found) | {"traced": None} == vars(rehearse(DGL))
    assert found.traced > 4 * (found.network + found.auxiliary) * 3  # weights, gradients, momentum


def test_the_images_are_of_the_data_sets_size_and_classes():
    cfg = reduced(["dataset=imagenet", "backbone=resnet34", "K=2", "processes=8"])
    data = synthetic_data(cfg)
    assert data.train.images.shape == (one.IMAGES, 3, 224, 224)
    assert set(data.train.targets.tolist()) == {999}
    assert (cfg.batch_size, cfg.processes, cfg.device) == (one.IMAGES, 1, "cpu")
    assert data.validation is None
    assert synthetic_data(reduced(["dataset.validation=20"])).validation is not None


def test_a_module_that_does_not_train_fails(monkeypatch):
    def frozen(cfg):
        network = build_network(cfg)
        for index in network.local_modules[1].layers:
            for parameter in network.backbone.layers[index].parameters():
                parameter.register_hook(torch.zeros_like)
        return network

    monkeypatch.setattr(classification, "build_network", frozen)
    with pytest.raises(LocalslError, match="no gradient in module 1"):
        rehearse(DGL)


def test_modules_of_a_network_that_took_no_step_have_no_gradient():
    assert without_gradient(build_network(compose(DGL))) == [0, 1, 2]


def test_a_step_that_changes_nothing_fails():
    with pytest.raises(LocalslError, match="learning rate is 0"):
        rehearse([*DGL, "schedule.epochs=1", "schedule.warmup_epochs=0"])


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A file of three cells of two configurations; each rehearsed once a call."""
    (tmp_path / "sweeps" / "some").mkdir(parents=True)
    (tmp_path / "sweeps" / "some" / "toys.yaml").write_text(GRID)
    monkeypatch.setattr(sweep_files, "SWEEPS", tmp_path / "sweeps")
    monkeypatch.setattr(provenance, "commit", lambda: "a" * 40)
    return ["-m", "sweep=some/toys", "show=rehearsal"]


def played(monkeypatch, outcome):
    """Let calls end as `outcome` says of (function, overrides); returns the list of calls."""
    calls = []

    def call_each(function, arguments, at_once, memory, seconds, imports):
        for position, overrides in enumerate(arguments):
            calls.append((function.__name__, " ".join(overrides), at_once, memory))
            yield position, outcome(function.__name__, " ".join(overrides))

    monkeypatch.setattr(rehearsal, "call_each", call_each)
    return calls


def well(function, overrides):
    return Outcome(value=Rehearsed(3, 10, 2), seconds=1.5, peak=2**29)


def test_cells_alike_are_rehearsed_once_and_all_are_told(toys, monkeypatch, capsys):
    calls = played(monkeypatch, well)
    assert typed(monkeypatch, *toys) == 0
    assert [call[1].split()[0] for call in calls] == ["method=bp", "method=dgl"]
    out = capsys.readouterr().out
    assert "2 configurations: 2 ok; results/rehearsal.csv" in out.replace("\n", " ")
    rows = read(Path("results/rehearsal.csv"))
    assert [row["result"] for row in rows] == ["ok", "ok"]
    assert [row["cell"] for row in rows] == ["some/toys resnet20 3 bp", "some/toys resnet20 3 dgl"]
    first = rows[0]
    assert (first["network_parameters"], first["auxiliary_parameters"]) == ("10", "2")
    assert (first["cpu_seconds"], first["peak_mib"], first["commit"]) == ("1.5", "512", "a" * 10)


def test_it_goes_on_where_it_was_stopped(toys, monkeypatch):
    def stopped(function, overrides):
        if "method=dgl" in overrides:
            raise KeyboardInterrupt
        return well(function, overrides)

    played(monkeypatch, stopped)
    assert typed(monkeypatch, *toys) == 130
    calls = played(monkeypatch, well)
    assert typed(monkeypatch, *toys) == 0
    assert [call[1].split()[0] for call in calls] == ["method=dgl"]
    assert len(read(Path("results/rehearsal.csv"))) == 2
    calls.clear()
    assert typed(monkeypatch, *toys) == 0
    assert not calls


@pytest.mark.parametrize("commit", ["b" * 40, "a" * 40 + "+", None])
def test_rows_of_other_code_are_made_again(commit, toys, monkeypatch):
    played(monkeypatch, well)
    assert typed(monkeypatch, *toys) == 0
    monkeypatch.setattr(provenance, "commit", lambda: commit)
    for _ in range(2 if commit is None or commit.endswith("+") else 1):
        calls = played(monkeypatch, well)
        assert typed(monkeypatch, *toys) == 0
        assert len(calls) == 2


def test_a_cell_that_fails_is_told_with_its_error_and_tried_again(toys, monkeypatch, capsys):
    def failing(function, overrides):
        broken = Outcome(failure="ValueError: no such layer", trace="Traceback ...\n", seconds=1)
        return broken if "method=dgl" in overrides else well(function, overrides)

    played(monkeypatch, failing)
    assert typed(monkeypatch, *toys) == 1
    told = capsys.readouterr()
    assert "Traceback ..." in told.out
    assert "2 configurations: 1 ok" in told.err
    assert "1 failed" in told.err
    assert [row["result"] for row in read(Path("results/rehearsal.csv"))][1] == "ValueError: no such layer"
    calls = played(monkeypatch, well)
    assert typed(monkeypatch, *toys) == 0
    assert len(calls) == 1


def test_what_does_not_fit_is_tried_alone_and_then_traced(toys, monkeypatch):
    full = Outcome(failure="RuntimeError: can't allocate memory", out_of_memory=True)

    def large(function, overrides):
        if "method=dgl" not in overrides:
            return well(function, overrides)
        return full if function == "rehearse" else Outcome(value=Rehearsed(3, 10, 2, 30 * GIB), seconds=2)

    monkeypatch.setattr(rehearsal, "_memory", lambda: 24 * GIB)
    monkeypatch.setattr(rehearsal.joblib, "cpu_count", lambda: 2)
    calls = played(monkeypatch, large)
    assert typed(monkeypatch, *toys) == 0
    assert [(name, at_once, memory // GIB) for name, typed_, at_once, memory in calls if "dgl" in typed_] == [
        ("rehearse", 2, 12),
        ("rehearse", 1, 20),
        ("trace", 1, 24),
    ]
    row = read(Path("results/rehearsal.csv"))[1]
    assert row["result"] == "traced: needs more than 20.0 GiB"
    assert row["peak_mib"] == str(30 * 1024)


def test_a_part_of_all_and_cells_that_were_changed_are_no_result(toys, monkeypatch):
    played(monkeypatch, well)
    (sweep_files.SWEEPS / "some" / "more.yaml").write_text(GRID)
    assert typed(monkeypatch, *toys) == 0
    assert typed(monkeypatch, *toys, "sweep=some/more", "backbone=resnet32") == 0
    assert not Path("results").exists()
    assert typed(monkeypatch, "-m", "sweep=grids", "show=rehearsal") == 0
    rows = read(Path("results/rehearsal.csv"))
    assert [row["cell"] for row in rows] == ["some/more resnet20 3 bp", "some/more resnet20 3 dgl"]
    assert {row["also"] for row in rows} == {"some/toys"}


def test_it_is_of_tables(monkeypatch, capsys):
    assert typed(monkeypatch, "show=rehearsal") == 2
    assert "type -m sweep=table1 too" in capsys.readouterr().err


def test_toys_are_really_rehearsed(toys, monkeypatch):
    assert typed(monkeypatch, *toys) == 0
    rows = read(Path("results/rehearsal.csv"))
    assert [row["result"] for row in rows] == ["ok", "ok"]
    assert [row["modules"] for row in rows] == ["1", "3"]
    assert all(float(row["cpu_seconds"]) > 0 and int(row["peak_mib"]) > 100 for row in rows)


@pytest.mark.slow
def test_a_cell_of_every_table_is_rehearsed():
    """The last that there is: tables begin with what is simple."""
    last = {}
    for name in sweep_files.every():
        request = sweeps.requested([f"sweep={name}"])
        assert request is not None
        last[name] = list(request.overrides(request.tables[0].cells[-1])[0])
    assert len(last) >= 27
    outcomes = dict(
        rehearsal.call_each(rehearse, list(last.values()), 2, 11 * GIB, 600, ["localsl.measure.rehearsal"])
    )
    failed = {name: outcomes[i].failure for i, name in enumerate(last) if outcomes[i].failure}
    assert not failed


@pytest.mark.parametrize(("words", "sweeps"), [([], "all,figures,grids"), (["PAPER=man"], "man,man/figures")])
def test_make_rehearses_tables_figures_and_grids(words, sweeps):
    command = ["make", "-n", "rehearse", *words]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f" sweep={sweeps} " in printed
