"""What a sweep would run and what is done: before it starts, and for `make status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from localsl import display
from localsl.tables import records
from localsl.tables.sweeps import Job, Request

if TYPE_CHECKING:
    from localsl.settings import Config


def status(request: Request, jobs: Sequence[Job], configs: Sequence[Config]) -> str:
    """A line a table: how many of its cells and runs there are, and how many of them are done."""
    states = {job: records.state(cfg) for job, cfg in zip(jobs, configs, strict=True)}
    lines = []
    for table in request.tables:
        count = Counter(states[job] for job in jobs if table.name in job.tables)
        lines.append(
            {
                "table": table.name,
                "cells": len(table.cells),
                "not built": sum(cell.unbuilt is not None for cell in table.cells),
                "runs": sum(count.values()),
                **{name: count.pop(name, 0) for name in ("done", "running", "interrupted", "missing")},
                "failed": sum(count.values()),
            }
        )
    total = Counter(states.values())
    told = ", ".join(f"{count} {name}" for name, count in total.most_common())
    shared = f"{len(jobs)} runs, those that tables share counted once" + (f": {told}" if told else "")
    unbuilt = {(table.name, cell.unbuilt) for table in request.tables for cell in table.cells if cell.unbuilt}
    not_built = [f"  {name} not built: {reason}" for name, reason in sorted(unbuilt)]
    return "\n".join([display.table(lines), *not_built, shared])
