"""The files of sweeps/: what tables, figures and grids run, as overrides, and the numbers that papers print for it.

sweeps/<paper>/tableN.yaml is a table, figN.yaml a figure, and any other file a grid.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from localsl.config import resources
from localsl.core.settings import ConfigError, Problem
from localsl.published import numbers as published
from localsl.published.numbers import KEYS, Number

SWEEPS = resources.folder("sweeps")

# The override that sets each key column.
OVERRIDE_OF_KEY = {
    "dataset": "dataset",
    "backbone": "backbone",
    "K": "K",
    "method": "method",
    "base": "aux_net",
    "depth": "aux.depth",
}
MEASURED_BY_TRAINING = {  # metrics of training runs, with their names in a run's record
    "test_error_pct": "test_accuracy",
    "top1_error_pct": "test_accuracy",
    "top1_acc_pct": "test_accuracy",
    "top5_error_pct": "test_top5_accuracy",
    "top5_acc_pct": "test_top5_accuracy",
    **{name: name for name in ("ap_box", "ap50_box", "ap75_box", "ap_mask", "ap50_mask", "ap75_mask")},
}
MEASURED_ALONE = {  # metrics of measurements, with their choices of `measure=`
    "gpu_memory_gb": "memory",
    "flops_g": "flops",
    "wallclock_overhead_pct": "overhead",
}

# Analyses that read only the record and metrics of a run, and need no checkpoint.
WITHOUT_CHECKPOINT = ("analysis=convergence", "analysis=pyramid", "analysis=tradeoff", "analysis=accuracy")
WITHOUT_CHECKPOINT += ("analysis=grid",)


@dataclass(frozen=True)
class Cell:
    """One configuration of a table, without its seed.

    Attributes:
        keys: the values of the key columns, in the order of KEYS.
        overrides: the overrides of its runs with the paper's settings.
        numbers: the published numbers, one for each metric.
        drawn: whether it belongs to a figure.
        defaults: values of the setting that define the cell but are defaults, and so need not be typed.
        formerly: the overrides that restore an earlier default. Its recorded runs are shown, with a mark, as long as
            there are no runs with the present default.
        seeds: the number of its runs; None for that of the table.
        note: a remark for readers of its rows.
        backbone_run: the overrides of the run that trains its backbone, which is part of the sweep too.
    """

    keys: tuple[str, ...]
    overrides: tuple[str, ...]
    numbers: tuple[Number, ...]
    drawn: bool = False
    defaults: tuple[str, ...] = ()
    formerly: tuple[str, ...] = ()
    seeds: int | None = None
    note: str = ""
    backbone_run: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether a training run measures one of its numbers, or is drawn in a figure."""
        return self.drawn or any(n.metric in MEASURED_BY_TRAINING for n in self.numbers)

    @property
    def dataset(self) -> str:
        """The data set of its numbers; its runs may have another one that stands in for it."""
        return self.keys[KEYS.index("dataset")]

    @property
    def label(self) -> str:
        """The label of its line in a figure: the variant if it has one, else the rule, base and depth."""
        keys = dict(zip(KEYS, self.keys, strict=True))
        depth = f"d={keys['depth']}" if keys["depth"] else ""
        return keys["variant"] or " ".join(filter(None, (keys["method"], keys["base"], depth)))

    @property
    def measures(self) -> list[str]:
        """The choices of `measure=` that measure one of its numbers."""
        return [m for metric, m in MEASURED_ALONE.items() if any(n.metric == metric for n in self.numbers)]


@dataclass(frozen=True)
class Table:
    """A published table, or a figure.

    Attributes:
        name: the paper and the table, such as "man/table1".
        seeds: the number of runs of each cell.
        layout: {"rows": [...], "columns": [...]}, the key columns as arranged in the paper.
        analysis: the overrides of a figure's analysis, such as analysis=cka analysis.images=10000; empty for a table.
        plot: how the paper draws a table: {"x": key, "lines": [keys], "kind": "line" or "bars"}; None if it does not.
    """

    name: str
    title: str
    seeds: int
    layout: dict[str, list[str]]
    plot: dict[str, Any] | None
    cells: list[Cell] = field(repr=False)
    analysis: tuple[str, ...] = ()

    def seeds_of(self, cell: Cell) -> int:
        """The number of runs of a cell."""
        return cell.seeds or self.seeds

    @property
    def paper(self) -> str:
        """The paper, which is the name of its folder."""
        return self.name.split("/")[0]


def named(text: str) -> list[str]:
    """The names of the tables, figures or grids that a text selects.

    Tables are selected by "man/table1", "table1", "man" or "all"; figures by "man/fig4", "fig4", "man/figures" or
    "figures"; grids by "ours/depth", "depth", "ours/grids" or "grids".

    Raises:
        ConfigError: if nothing matches.
    """
    found = [name for name in every() if text in ("all", name, *name.split("/"))]
    for kind, names in (("figures", figures()), ("grids", grids())):
        for name in names:
            paper, short = name.split("/")
            if text in (kind, f"{paper}/{kind}", name, short):
                found.append(name)
    if not found:
        known = [*every(), *figures(), *grids()]
        near = difflib.get_close_matches(text, [*known, *(name.split("/")[1] for name in known)], n=1)
        instead = f"did you mean sweep={near[0]}?" if near else ""
        papers = sorted({name.split("/")[0] for name in known})
        what = f"one of the files of sweeps/, such as table1, man/table1 or man/figures, of {', '.join(papers)}"
        raise ConfigError([Problem("sweep", text, what, instead)])
    return found


def every() -> list[str]:
    """The names of all tables."""
    return _files("table*")


def figures() -> list[str]:
    """The names of all figures."""
    return _files("fig*")


def grids() -> list[str]:
    """The names of all grids: figures of settings that no paper varies in this way."""
    return [name for name in _files("*") if name not in (*every(), *figures())]


def _files(pattern: str) -> list[str]:
    names = [str(file.relative_to(SWEEPS).with_suffix("")) for file in SWEEPS.glob(f"*/{pattern}.yaml")]
    return sorted(names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])


def read(name: str) -> Table:
    """Read the table, figure or grid of a file of sweeps/, with the published numbers of each cell.

    `same_as: mlaan/fig4` defines a figure as another one under a new name.
    """
    values = OmegaConf.to_container(OmegaConf.load(SWEEPS / f"{name}.yaml"))
    assert isinstance(values, dict)
    if "same_as" in values:
        return replace(read(values["same_as"]), name=name)
    if "analysis" in values:
        return _figure(name, values)  # pyright: ignore[reportArgumentType]
    numbers: dict[tuple[str, ...], list[Number]] = {}
    for number in published.read(name):
        numbers.setdefault(number.keys, []).append(number)
    cells = [cell for grid in values["grids"] for cell in _cells(grid, numbers)]
    return Table(name, values["title"], values["seeds"], values["layout"], values.get("plot"), cells)


def _figure(name: str, values: dict[str, Any]) -> Table:
    analysis = tuple(values["analysis"].split())
    kept = () if analysis[0] in WITHOUT_CHECKPOINT else ("checkpoint.required=true",)
    cells = [
        replace(cell, overrides=(*cell.overrides, *kept), drawn=True)
        for grid in values["grids"]
        for cell in _cells(grid, {})
    ]
    return Table(name, values["title"], values["seeds"], {}, None, cells, analysis)


def _cells(grid: dict[str, Any], numbers: dict[tuple[str, ...], list[Number]]) -> Iterator[Cell]:
    for combination in combinations(grid["run"].split()):
        typed = dict(override.split("=", 1) for override in combination)
        keys = {key: typed.get(override, "") for key, override in OVERRIDE_OF_KEY.items()}
        keys |= {key: str(value) for key, value in grid.get("keys", {}).items()}
        ordered = tuple(keys.get(key, "") for key in KEYS)
        options: dict[str, Any] = {k: tuple(grid.get(k, "").split()) for k in ("defaults", "formerly")}
        options |= {"seeds": grid.get("seeds"), "note": grid.get("note", "")}
        options["backbone_run"] = tuple(grid.get("backbone_run", "").split())
        yield Cell(ordered, tuple(combination), tuple(numbers.get(ordered, [])), **options)


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """Hydra's expansion of comma-separated values to all combinations, in order."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return BasicSweeper.split_arguments(parsed, None)[0]
