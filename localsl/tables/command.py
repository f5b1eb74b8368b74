"""What a command line with `sweep=` prints before and after its runs, and the tables that it renders."""

from __future__ import annotations

from pathlib import Path

from localsl import tracking
from localsl.config import Line, compose
from localsl.tables import overview, records, render
from localsl.tables.render import Composed


def shown(line: Line) -> str | None:
    """What `show=` asks of a sweep, which then runs nothing; None where it is to be run."""
    show = line.configs[0].show if line.configs else None
    if line.request is None or show not in ("jobs", "status", "tables"):
        return None
    if show == "tables":
        return results(line)
    told = overview.status(line.request, line.jobs, line.configs)
    return told if show == "status" else f"{told}\n{overview.work(line.configs)}"


def before(line: Line) -> str:
    """What is about to be run."""
    if line.request is None or _shows(line):
        return ""
    return "\n".join([overview.status(line.request, line.jobs, line.configs), overview.work(line.configs), ""])


def after(line: Line) -> str:
    """How several runs ended: their tables rendered, or the runs side by side."""
    if _shows(line):
        return ""
    if line.request is not None:
        return f"\n{results(line)}\n"
    if len(line.configs) < 2:
        return ""
    return f"\n{tracking.summary(tracking.planned_runs(line.configs))}\n"


def _shows(line: Line) -> bool:
    return bool(line.configs and line.configs[0].show)


def results(line: Line) -> str:
    """Render the tables of a sweep, and keep the records behind them; returns what was written.

    Runs of the smoke schedule and of the embedded digits are no results: their tables go to
    OUTPUT_DIR/results, from the sweep's own runs. The others go to RESULTS_DIR, from all records kept there.
    """
    assert line.request is not None
    where = line.configs[0] if line.configs else compose()
    if line.request.rehearsed:
        folder, runs = Path(where.output_dir) / "results", records.of(line.configs)
    else:
        folder = Path(where.results_dir)
        records.keep(line.configs)
        runs = records.under(folder / "runs")
    configs = {job.overrides: cfg for job, cfg in zip(line.jobs, line.configs, strict=True)}
    lines = []
    for table in line.request.tables:
        made = render.rows(table, Composed(line.request, configs), runs)
        filled = sum(row["ours_mean"] != "" for row in made)
        lines.append({"table": table.name, "rows": len(made), "measured": filled})
        written = render.write(folder, table, made)
        lines[-1]["written to"] = f"{written[0].with_suffix('')}{{{','.join(p.suffix for p in written)}}}"
    return tracking.table(lines)
