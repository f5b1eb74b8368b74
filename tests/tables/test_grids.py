"""Grids of settings that no paper varies so: what they train, and how they are drawn."""

import re
from pathlib import Path

import pytest

from localsl.config import ConfigError, compose
from localsl.config.composition import Composition
from localsl.runs.identity import cell_id
from localsl.tables import sweep_files
from tests.conftest import ROOT
from tests.helpers.analysis import rows_of
from tests.helpers.command import typed
from tests.helpers.runs import TINY

NAMES = ["ours/cascade", "ours/depth", "ours/lr", "ours/modules", "ours/momentum"]


def test_grids_are_asked_for_by_name_and_no_part_of_tables_and_figures():
    assert sweep_files.grids() == sweep_files.named("grids") == sweep_files.named("ours/grids") == NAMES
    assert sweep_files.named("lr") == ["ours/lr"]
    assert not {*sweep_files.named("all"), *sweep_files.named("figures")} & set(NAMES)
    with pytest.raises(ConfigError, match="did you mean sweep=ours/depth"):
        sweep_files.named("ours/depths")


def test_every_grid_is_small_varies_its_field_and_holds_images_out():
    composition = Composition()
    for name in sweep_files.grids():
        grid = sweep_files.read(name)
        across = compose(grid.analysis).analysis.across
        configs = [compose(cell.overrides, composition) for cell in grid.cells]
        assert len({cell_id(cfg) for cfg in configs}) == len(configs) <= 40
        assert {cfg.dataset.validation for cfg in configs} == {5000}
        assert not any("checkpoint" in override for cell in grid.cells for override in cell.overrides)
        points = {
            (cell.label, *[o for o in cell.overrides if o.startswith(f"{across}=")]) for cell in grid.cells
        }
        assert len(points) == len(grid.cells)


def test_make_lists_each_with_its_number_of_runs():
    lines = re.findall(r"^grid-(\w+): setup ## .*?(\d+) runs", (ROOT / "Makefile").read_text(), re.MULTILINE)
    told = {f"ours/{name}": int(count) for name, count in lines}
    assert told == {name: len(sweep_files.read(name).cells) for name in sweep_files.grids()}


GRID = """
title: Modules
seeds: 1
analysis: analysis=grid analysis.across=K
grids:
  - run: method=bp dataset=cifar10 dataset.validation=5000 backbone=resnet20
  - run: method=dgl K=2,3 dataset=cifar10 dataset.validation=5000 backbone=resnet20
"""


def test_a_grid_trains_its_runs_and_is_drawn(tmp_path, monkeypatch):
    (tmp_path / "sweeps" / "some").mkdir(parents=True)
    (tmp_path / "sweeps" / "some" / "modules.yaml").write_text(GRID)
    monkeypatch.setattr(sweep_files, "SWEEPS", tmp_path / "sweeps")
    tiny = [override for override in TINY if not override.startswith(("K=", "backbone="))]
    line = ["-m", "sweep=some/modules", "dataset=digits", "dataset.validation=30", "seed=0", *tiny]
    assert typed(monkeypatch, *line) == 0
    rows = rows_of("outputs/results/some/modules.csv")
    assert [(row["label"], row["across"], row["value"]) for row in rows] == [
        ("bp", "K", "1"),
        ("dgl", "K", "2"),
        ("dgl", "K", "3"),
    ]
    for row in rows:
        assert 1 <= int(row["selected_epoch"]) <= 3
        assert float(row["best_accuracy"]) >= max(float(row["selected_test"]), float(row["test_accuracy"]))
    assert Path("outputs/results/some/modules.png").exists()

    # The same of runs by their ids, whose labels would else tell each from the others.
    ids = ",".join(row["run"] for row in rows)
    asked = ["analysis=grid", f"runs=[{ids}]", "analysis.output=mine"]
    assert typed(monkeypatch, *asked) == 0
    assert [(row["label"], row["value"]) for row in rows_of("mine.csv")] == [
        ("bp", "1"),
        ("dgl", "2"),
        ("dgl", "3"),
    ]
    assert typed(monkeypatch, *asked, "analysis.across=method.name") == 2
    assert typed(monkeypatch, *asked, "analysis.across=no.field") == 2
