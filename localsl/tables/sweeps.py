"""Sweeps: the jobs of a command line with `-m`, and the files of sweeps/ that name the runs of tables and figures.

sweeps/<paper>/tableN.yaml is a table, figN.yaml a figure, and any other file a grid. This file handles overrides as
text only, and composes no configuration.
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

# The seed of a backbone's run, from which the detectors of all seeds start.
BACKBONE_SEED = 0

# Analyses that read only the record and metrics of a run, and need no checkpoint.
WITHOUT_CHECKPOINT = ("analysis=convergence", "analysis=pyramid", "analysis=tradeoff", "analysis=accuracy")
WITHOUT_CHECKPOINT += ("analysis=grid",)


@dataclass(frozen=True)
class Cell:
    """One configuration of a table, without its seed.

    Attributes:
        keys: the values of the key columns, in the order of KEYS.
        overrides: the overrides of its runs with the paper's settings.
        unbuilt: the reason why it cannot be run yet, or None.
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
        """Whether a training run measures one of its numbers, or is drawn in a figure."""
        measured = self.drawn or any(n.metric in MEASURED_BY_TRAINING for n in self.numbers)
        return self.unbuilt is None and measured

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


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        tables: the names of the tables that need it.
        needed: whether other jobs need its result.
    """

    overrides: tuple[str, ...]
    seed: int | None = None
    tables: tuple[str, ...] = ()
    needed: bool = False

    @property
    def typed(self) -> list[str]:
        """All overrides of the job, with its seed."""
        return [*self.overrides, *([] if self.seed is None else [f"seed={self.seed}"])]

    def seeded(self, cfg: Command) -> Command:
        """The job's configuration: `cfg`, composed from `overrides`, with the job's seed."""
        return cfg if self.seed is None else replace(cfg, seed=self.seed)


@dataclass(frozen=True)
class Request:
    """The tables named by `sweep=`, and the further overrides, which apply to every cell.

    Attributes:
        typed: the combinations of further overrides.
        seeds: the typed seeds; None for those of the tables.
        only: the only kinds of measurements to run; None for all runs and measurements.
    """

    tables: list[Table]
    typed: list[list[str]]
    seeds: list[int] | None
    only: list[str] | None = None

    def overrides(self, cell: Cell) -> list[tuple[str, ...]]:
        """The overrides of a cell's runs without seeds, one list for each combination of typed overrides."""
        return [self._overrides(cell, typed) for typed in self.typed]

    def backbone_runs(self, cell: Cell) -> list[tuple[str, ...]]:
        """The overrides of the runs that train the cell's backbone; empty if it is trained from scratch."""
        return [_of_backbone(cell, typed) for typed in self.typed if cell.backbone_run]

    def _overrides(self, cell: Cell, typed: Sequence[str]) -> tuple[str, ...]:
        own = _merged(cell.overrides, typed)
        return (*own, started_from(_of_backbone(cell, typed))) if cell.backbone_run else own

    def former_overrides(self, cell: Cell) -> list[tuple[str, ...]]:
        """The overrides of a cell's runs with its earlier default, if it has one. Sweeps do not run them."""
        return [(*overrides, *cell.formerly) for overrides in self.overrides(cell) if cell.formerly]

    @cached_property
    def jobs(self) -> list[Job]:
        """All runs and measurements; those that several cells share occur once."""
        tables_of_run: dict[tuple[tuple[str, ...], int | None], list[str]] = {}
        needed = {
            (o, BACKBONE_SEED) for table in self.tables for cell in table.cells for o in self._needed(cell)
        }
        for table in self.tables:
            for run in (run for cell in table.cells for run in self._runs(cell, table.seeds_of(cell))):
                tables = tables_of_run.setdefault(run, [])
                if table.name not in tables:
                    tables.append(table.name)
        # Runs that others need come first, then measurements, then the first seed of every cell before any second.
        by_seed = sorted(tables_of_run.items(), key=lambda item: -1 if item[0][1] is None else item[0][1])
        jobs = [Job(run[0], run[1], tuple(tables), run in needed) for run, tables in by_seed]
        return sorted(jobs, key=lambda job: not job.needed)

    @property
    def to_run(self) -> list[Job]:
        """The jobs to run, limited by `only`; tables are rendered from all jobs."""
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
        """Whether the typed overrides change what the cells train, so that the table is no longer the paper's."""
        names = {field_of(override) for typed in self.typed for override in typed}
        return not all(effect(name).keeps_table or name.startswith("hydra") for name in names)


@dataclass(frozen=True)
class Line:
    """A parsed command line.

    Attributes:
        jobs: its jobs; empty if Hydra only prints something (`--cfg`, `--help` and similar flags).
        configs: the configurations of the jobs, in the same order.
        request: the requested tables, or None.
        base: the configuration of the values that all jobs share, such as folders; set even if tables have no jobs.
        known: the contents of the image folders that the jobs use.
    """

    jobs: list[Job] = field(default_factory=list)
    configs: list[Command] = field(default_factory=list)
    request: Request | None = None
    base: Command | None = None
    known: Known = field(default_factory=dict)


def measuring(overrides: tuple[str, ...], *measures: str) -> tuple[str, ...]:
    """The overrides of the measurement of what these overrides train."""
    return (*overrides, *(f"measure={measure}" for measure in measures))


def jobs(arguments: Sequence[str]) -> list[Job]:
    """The jobs of a command line with -m, from `sweep=` or from comma-separated values.

    Raises:
        ConfigError: if a table does not exist.
        HydraException, ValueError: if the overrides cannot be parsed or expanded.
    """
    request = requested(arguments)
    return request.to_run if request else [Job(tuple(overrides)) for overrides in combinations(arguments)]


def requested(arguments: Sequence[str]) -> Request | None:
    """The tables named by `sweep=` in these overrides; None without it.

    Raises:
        ConfigError: if a table does not exist.
    """
    named_sweeps = [a.lstrip("+") for a in arguments if a.lstrip("+").startswith("sweep=")]
    if not named_sweeps:
        return None
    measures = [a for a in arguments if a.lstrip("+").startswith("measure=")]
    only = [c[0].lstrip("+").removeprefix("measure=") for c in combinations(measures)] if measures else None
    for measure in only or []:
        if measure not in MEASURED_ALONE.values():
            what = f"a table measures only {', '.join(MEASURED_ALONE.values())}"
            raise ConfigError([Problem("measure", measure, what, "leave measure out, or leave sweep out")])
    seeds = [a for a in arguments if a.startswith("seed=")]
    rest = [a for a in arguments if a.lstrip("+") not in named_sweeps and a not in (*seeds, *measures)]
    wanted = [a.removeprefix("sweep=") for combination in combinations(named_sweeps) for a in combination]
    tables = [read(name) for name in dict.fromkeys(name for text in wanted for name in named(text))]
    smoke = [0] if "schedule=smoke" in rest else None  # a smoke run shows whether a cell works: one is enough
    return Request(tables, combinations(rest), _seeds(seeds) or smoke, only)


def _seeds(typed: list[str]) -> list[int] | None:
    values = [c[0].removeprefix("seed=") for c in combinations(typed)] if typed else []
    wrong = [Problem("seed", v, "must be a whole number of at least 0") for v in values if not v.isdecimal()]
    if wrong:
        raise ConfigError(wrong)
    return [int(v) for v in values] or None


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """Hydra's expansion of comma-separated values to all combinations, in order."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return BasicSweeper.split_arguments(parsed, None)[0]


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
        yield Cell(ordered, tuple(combination), grid.get("unbuilt"), tuple(numbers.get(ordered, [])), **options)


def started_from(backbone_run: Sequence[str]) -> str:
    """The override `backbone_run=...` with a run's overrides as its value, quoted for Hydra."""
    text = shlex.join([*backbone_run, f"seed={BACKBONE_SEED}"])
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'backbone_run="{escaped}"'


def _of_backbone(cell: Cell, typed: Sequence[str]) -> tuple[str, ...]:
    """The overrides of the backbone's run of a cell: its own, and the typed ones that do not concern the detector."""
    kept = [o for o in typed if not field_of(o).startswith(("hydra", "task", "detector"))]
    return _merged(cell.backbone_run, kept)


def _merged(cell: Sequence[str], typed: Sequence[str]) -> tuple[str, ...]:
    """Merge a cell's overrides with typed ones, which replace the cell's; a typed group replaces all of its values.

    schedule=paper replaces nothing, because cells may state their own number of epochs within it.
    """
    replaced = [field_of(o) for o in typed if o != "schedule=paper"]
    kept = [o for o in cell if not any(field_of(o) == r or field_of(o).startswith(f"{r}.") for r in replaced)]
    return (*kept, *typed)
