"""The jobs of a command line with `-m`: those of tables, figures and grids, or the combinations of its values.

This file handles overrides as text only, and composes no configuration.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from localsl.config.composition import field_of
from localsl.config.fields import effect
from localsl.core.settings import ConfigError, Problem
from localsl.data.sources import Known
from localsl.tables import sweep_files
from localsl.tables.sweep_files import MEASURED_ALONE, Cell, Table, combinations

if TYPE_CHECKING:
    from localsl.config.command import Command

# The seed of a backbone's run, from which the detectors of all seeds start.
BACKBONE_SEED = 0


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
        for overrides in self.overrides(cell):
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
    tables = [sweep_files.read(n) for n in dict.fromkeys(n for text in wanted for n in sweep_files.named(text))]
    smoke = [0] if "schedule=smoke" in rest else None  # a smoke run shows whether a cell works: one is enough
    return Request(tables, combinations(rest), _seeds(seeds) or smoke, only)


def _seeds(typed: list[str]) -> list[int] | None:
    values = [c[0].removeprefix("seed=") for c in combinations(typed)] if typed else []
    wrong = [Problem("seed", v, "must be a whole number of at least 0") for v in values if not v.isdecimal()]
    if wrong:
        raise ConfigError(wrong)
    return [int(v) for v in values] or None


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
