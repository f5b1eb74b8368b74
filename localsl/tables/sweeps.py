"""Sweeps: what `-m` stands for, and the files sweeps/<paper>/tableN.yaml that name the runs of a table, and
figN.yaml those of a figure.

Only texts: nothing is composed here.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from localsl.config import resources
from localsl.config.composition import field_of
from localsl.config.fields import effect
from localsl.core.settings import ConfigError, Problem
from localsl.data.sources import Known
from localsl.published import numbers as published
from localsl.published.numbers import KEYS, Number

if TYPE_CHECKING:
    from localsl.config.command import Command

SWEEPS = resources.folder("sweeps")

# Key columns that a run's overrides tell, and metrics that its record tells.
TOLD = {
    "dataset": "dataset",
    "backbone": "backbone",
    "K": "K",
    "method": "method",
    "base": "aux_net",
    "depth": "aux.depth",
}
MEASURED_BY_TRAINING = {  # and its name there
    "test_error_pct": "test_accuracy",
    "top1_error_pct": "test_accuracy",
    "top1_acc_pct": "test_accuracy",
    "top5_error_pct": "test_top5_accuracy",
    "top5_acc_pct": "test_top5_accuracy",
    **{name: name for name in ("ap_box", "ap50_box", "ap75_box", "ap_mask", "ap50_mask", "ap75_mask")},
}
MEASURED_ALONE = {  # by `measure=`
    "gpu_memory_gb": "memory",
    "flops_g": "flops",
    "wallclock_overhead_pct": "overhead",
}

# Of the runs that others start from: all seeds of a cell start from one.
BACKBONE_SEED = 0

# Figures that need no more of a run than its record: analyses whose runs may lack a checkpoint.
BY_RECORD = ("analysis=convergence", "analysis=pyramid", "analysis=tradeoff", "analysis=accuracy")
BY_RECORD += ("analysis=grid",)


@dataclass(frozen=True)
class Cell:
    """One configuration of a table, whatever the seed.

    Attributes:
        keys: in the order of KEYS.
        overrides: what is typed to run it with the paper's settings.
        unbuilt: why it cannot be run yet, or None.
        numbers: what the paper prints for it, one a metric.
        drawn: whether it is part of a figure.
        defaults: of the setting, what sets the cell apart though it need not be typed.
        formerly: what is typed to get an earlier default, whose recorded runs are shown, marked, until there
            are runs of the present one.
        seeds: runs of it, where the grid says so; None: as many as of the table's other cells.
        note: what a reader of its rows has to know.
        backbone_run: what is typed for the run whose backbone it starts from; the sweep trains that too.
    """

    keys: tuple[str, ...]
    overrides: tuple[str, ...]
    unbuilt: str | None
    numbers: tuple[Number, ...]
    drawn: bool = False
    defaults: tuple[str, ...] = ()
    formerly: tuple[str, ...] = ()
    seeds: int | None = None
    note: str = ""
    backbone_run: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether a training run tells one of its numbers, or its line in a figure."""
        told = self.drawn or any(n.metric in MEASURED_BY_TRAINING for n in self.numbers)
        return self.unbuilt is None and told

    @property
    def label(self) -> str:
        """What its line in a figure is called: the variant where it has one, else rule and depth."""
        keys = dict(zip(KEYS, self.keys, strict=True))
        depth = f"d={keys['depth']}" if keys["depth"] else ""
        return keys["variant"] or " ".join(filter(None, (keys["method"], keys["base"], depth)))

    @property
    def measures(self) -> list[str]:
        """The choices of `measure=` that tell one of its numbers."""
        return [m for metric, m in MEASURED_ALONE.items() if any(n.metric == metric for n in self.numbers)]


@dataclass(frozen=True)
class Table:
    """A published table, or a figure.

    Attributes:
        name: "man/table1".
        seeds: runs a cell.
        layout: {"rows": [...], "columns": [...]}, key columns as the paper arranges them.
        analysis: of a figure what it shows, as overrides: analysis=cka analysis.images=10000; none for a table.
        plot: None, or how the paper draws it: {"x": key, "lines": [keys], "kind": "line" or "bars"}.
    """

    name: str
    title: str
    seeds: int
    layout: dict[str, list[str]]
    plot: dict[str, Any] | None
    cells: list[Cell] = field(repr=False)
    analysis: tuple[str, ...] = ()

    def seeds_of(self, cell: Cell) -> int:
        """Runs of one of its cells."""
        return cell.seeds or self.seeds

    @property
    def paper(self) -> str:
        """Its folder."""
        return self.name.split("/")[0]


@dataclass(frozen=True)
class Job:
    """One run of a sweep: what is typed for it, the tables that ask for it, and whether other jobs start from it."""

    overrides: tuple[str, ...]
    seed: int | None = None
    tables: tuple[str, ...] = ()
    needed: bool = False

    @property
    def typed(self) -> list[str]:
        """Its whole command line."""
        return [*self.overrides, *([] if self.seed is None else [f"seed={self.seed}"])]

    def seeded(self, cfg: Command) -> Command:
        """The configuration that `overrides` composed to, with the seed."""
        return cfg if self.seed is None else replace(cfg, seed=self.seed)


@dataclass(frozen=True)
class Request:
    """Tables asked for by `sweep=`, and what was typed beside it, which holds for every cell.

    Attributes:
        only: kinds of measurements, which alone are run; None runs all there is.
    """

    tables: list[Table]
    typed: list[list[str]]
    seeds: list[int] | None
    only: list[str] | None = None

    def overrides(self, cell: Cell) -> list[tuple[str, ...]]:
        """The runs of a cell without their seeds: one for each combination of what was typed."""
        return [self._overrides(cell, typed) for typed in self.typed]

    def backbone_runs(self, cell: Cell) -> list[tuple[str, ...]]:
        """What is typed for the runs that these start from; none where they start from scratch."""
        return [_of_backbone(cell, typed) for typed in self.typed if cell.backbone_run]

    def _overrides(self, cell: Cell, typed: Sequence[str]) -> tuple[str, ...]:
        own = _merged(cell.overrides, typed)
        return (*own, started_from(_of_backbone(cell, typed))) if cell.backbone_run else own

    def former_overrides(self, cell: Cell) -> list[tuple[str, ...]]:
        """The same in the earlier form of a cell that has one. Sweeps run none of them."""
        return [(*overrides, *cell.formerly) for overrides in self.overrides(cell) if cell.formerly]

    @cached_property
    def jobs(self) -> list[Job]:
        """All runs, those that several cells share once."""
        asking: dict[tuple[tuple[str, ...], int | None], list[str]] = {}
        needed = {
            (o, BACKBONE_SEED) for table in self.tables for cell in table.cells for o in self._needed(cell)
        }
        for table in self.tables:
            for run in (run for cell in table.cells for run in self._runs(cell, table.seeds_of(cell))):
                tables = asking.setdefault(run, [])
                if table.name not in tables:
                    tables.append(table.name)
        # What others start from, measurements, then every cell once before any twice.
        by_seed = sorted(asking.items(), key=lambda item: -1 if item[0][1] is None else item[0][1])
        jobs = [Job(run[0], run[1], tuple(tables), run in needed) for run, tables in by_seed]
        return sorted(jobs, key=lambda job: not job.needed)

    @property
    def to_run(self) -> list[Job]:
        """Those that are asked for; the tables are rendered from all."""
        if self.only is None:
            return self.jobs
        return [job for job in self.jobs if job.overrides[-1] in measuring((), *self.only)]

    def _runs(self, cell: Cell, seeds: int) -> Iterator[tuple[tuple[str, ...], int | None]]:
        for overrides in self.overrides(cell) if cell.unbuilt is None else []:
            for measure in cell.measures:
                yield measuring(overrides, measure), None
            for seed in (self.seeds or range(seeds)) if cell.trains else []:
                yield overrides, seed
        for overrides in self._needed(cell):
            yield overrides, BACKBONE_SEED

    def _needed(self, cell: Cell) -> list[tuple[str, ...]]:
        return [(*overrides, "checkpoint.required=true") for overrides in self.backbone_runs(cell)]

    @property
    def varied(self) -> bool:
        """Whether what was typed changes what the cells train: then they are not the papers' any more."""
        names = {field_of(override) for typed in self.typed for override in typed}
        return not all(effect(name).keeps_table or name.startswith("hydra") for name in names)


@dataclass(frozen=True)
class Line:
    """What a command line stands for.

    Attributes:
        jobs: its runs; none where Hydra only prints something (`--cfg`, `--help` and their like).
        configs: theirs, in the same order.
        request: the tables that it asks for, or None.
        base: what is the same for all jobs, such as folders; also where the tables have no job.
        known: what the folders of pictures held that they name.
    """

    jobs: list[Job] = field(default_factory=list)
    configs: list[Command] = field(default_factory=list)
    request: Request | None = None
    base: Command | None = None
    known: Known = field(default_factory=dict)


def measuring(overrides: tuple[str, ...], *measures: str) -> tuple[str, ...]:
    """The job that measures what these overrides train."""
    return (*overrides, *(f"measure={measure}" for measure in measures))


def jobs(arguments: Sequence[str]) -> list[Job]:
    """Every job of a multirun's overrides, by `sweep=` or by comma lists.

    Raises:
        ConfigError: if a table is not there.
        HydraException, ValueError: if the overrides cannot be parsed or expanded.
    """
    request = requested(arguments)
    return request.to_run if request else [Job(tuple(overrides)) for overrides in combinations(arguments)]


def requested(arguments: Sequence[str]) -> Request | None:
    """The tables that `sweep=` among these overrides names, or None without it.

    Raises:
        ConfigError: if a table is not there.
    """
    given = [a.lstrip("+") for a in arguments if a.lstrip("+").startswith("sweep=")]
    if not given:
        return None
    measures = [a for a in arguments if a.lstrip("+").startswith("measure=")]
    only = [c[0].lstrip("+").removeprefix("measure=") for c in combinations(measures)] if measures else None
    for measure in only or []:
        if measure not in MEASURED_ALONE.values():
            what = f"tables have {', '.join(MEASURED_ALONE.values())}"
            raise ConfigError([Problem("measure", measure, what, "leave measure out, or leave sweep out")])
    seeds = [a for a in arguments if a.startswith("seed=")]
    rest = [a for a in arguments if a.lstrip("+") not in given and a not in (*seeds, *measures)]
    wanted = [a.removeprefix("sweep=") for combination in combinations(given) for a in combination]
    tables = [read(name) for name in dict.fromkeys(name for text in wanted for name in named(text))]
    return Request(tables, combinations(rest), _seeds(seeds), only)


def _seeds(typed: list[str]) -> list[int] | None:
    values = [c[0].removeprefix("seed=") for c in combinations(typed)] if typed else []
    wrong = [Problem("seed", v, "must be a whole number of at least 0") for v in values if not v.isdecimal()]
    if wrong:
        raise ConfigError(wrong)
    return [int(v) for v in values] or None


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """Hydra's own expansion of comma lists, in order."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return BasicSweeper.split_arguments(parsed, None)[0]


def named(text: str) -> list[str]:
    """The tables that a name means: "man/table1", or "table1", "man" or "all" for those that there are. Figures
    are meant by "man/fig4", "fig4", "man/figures" and "figures", grids likewise by "ours/depth" and "grids".

    Raises:
        ConfigError: if there is none.
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
        what = f"a file of sweeps/: table1, or man/table1, or man/figures, of {', '.join(papers)}"
        raise ConfigError([Problem("sweep", text, what, instead)])
    return found


def every() -> list[str]:
    """The names of all tables."""
    return _files("table*")


def figures() -> list[str]:
    """The names of all figures."""
    return _files("fig*")


def grids() -> list[str]:
    """The names of all grids: figures by another name, of settings that no paper varies so."""
    return [name for name in _files("*") if name not in (*every(), *figures())]


def _files(pattern: str) -> list[str]:
    names = [str(file.relative_to(SWEEPS).with_suffix("")) for file in SWEEPS.glob(f"*/{pattern}.yaml")]
    return sorted(names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])


def read(name: str) -> Table:
    """The table or figure of a file, each cell of a table tied to its published numbers.

    A figure that says only `same_as: mlaan/fig4` is that one under its own name.
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
    shows = tuple(values["analysis"].split())
    kept = () if shows[0] in BY_RECORD else ("checkpoint.required=true",)
    cells = [
        replace(cell, overrides=(*cell.overrides, *kept), drawn=True)
        for grid in values["grids"]
        for cell in _cells(grid, {})
    ]
    return Table(name, values["title"], values["seeds"], {}, None, cells, shows)


def _cells(grid: dict[str, Any], numbers: dict[tuple[str, ...], list[Number]]) -> Iterator[Cell]:
    for combination in combinations(grid["run"].split()):
        typed = dict(override.split("=", 1) for override in combination)
        keys = {key: typed.get(override, "") for key, override in TOLD.items()}
        keys |= {key: str(value) for key, value in grid.get("keys", {}).items()}
        ordered = tuple(keys.get(key, "") for key in KEYS)
        more: dict[str, Any] = {k: tuple(grid.get(k, "").split()) for k in ("defaults", "formerly")}
        more |= {"seeds": grid.get("seeds"), "note": grid.get("note", "")}
        more["backbone_run"] = tuple(grid.get("backbone_run", "").split())
        yield Cell(ordered, tuple(combination), grid.get("unbuilt"), tuple(numbers.get(ordered, [])), **more)


def started_from(backbone_run: Sequence[str]) -> str:
    """The override that names a run by what is typed for it, as Hydra reads it."""
    text = shlex.join([*backbone_run, f"seed={BACKBONE_SEED}"])
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'backbone_run="{escaped}"'


def _of_backbone(cell: Cell, typed: Sequence[str]) -> tuple[str, ...]:
    """What is typed for the run that a cell starts from: what was typed beside the table, but for the detector."""
    kept = [o for o in typed if not field_of(o).startswith(("hydra", "task", "detector"))]
    return _merged(cell.backbone_run, kept)


def _merged(cell: Sequence[str], typed: Sequence[str]) -> tuple[str, ...]:
    """A cell's overrides with those typed for the whole sweep, which replace the cell's own, a group with
    all of its values; but the paper's schedule, which cells are of, leaves them their epochs.
    """
    replaced = [field_of(o) for o in typed if o != "schedule=paper"]
    kept = [o for o in cell if not any(field_of(o) == r or field_of(o).startswith(f"{r}.") for r in replaced)]
    return (*kept, *typed)
