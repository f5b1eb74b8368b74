"""The planned and completed runs of a sweep, printed before it starts and by `make status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from localsl.runs import display, identity
from localsl.tables.sweeps import Job, Request

if TYPE_CHECKING:
    from localsl.config.command import Command


def runs(jobs: Sequence[Job], configs: Sequence[Command], states: Sequence[str]) -> str:
    """A table with one row per run: its state, its id and the overrides that start it, without `show=`."""
    lines = []
    for job, cfg, state in zip(jobs, configs, states, strict=True):
        overrides = [override for override in job.typed if not override.startswith("show=")]
        lines.append({"state": state, "run": identity.run_id(cfg), "typed": " ".join(overrides)})
    return display.table(lines)


def status(request: Request, jobs: Sequence[Job], configs: Sequence[Command], states: Sequence[str]) -> str:
    """A table with the number of cells and of runs of each state, one row per table.

    Args:
        states: the state of each job, as `records.state` returns it.
    """
    state_of = dict(zip(jobs, states, strict=True))
    lines = []
    for table in request.tables:
        count = Counter(state_of[job] for job in jobs if table.name in job.tables)
        lines.append(
            {
                "table": table.name,
                "cells": len(table.cells),
                "runs": sum(count.values()),
                **{name: count.pop(name, 0) for name in ("done", "running", "interrupted", "missing")},
                "failed": sum(count.values()),
            }
        )
    runs: dict[str | Job, str] = {}
    for job, cfg in zip(jobs, configs, strict=True):
        # A run that is done for a table may still be missing for a figure that needs its checkpoint; then it counts
        # as missing.
        run = identity.run_id(cfg) if cfg.measure is None else job
        if runs.get(run, "done") == "done":
            runs[run] = state_of[job]
    by_state = ", ".join(f"{count} {name}" for name, count in Counter(runs.values()).most_common())
    shared = f"{len(runs)} runs, those that tables share counted once" + (f": {by_state}" if by_state else "")
    return f"{display.table(lines)}\n{shared}"
