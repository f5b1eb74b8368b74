"""What a command line with `sweep=` prints before and after its runs, and the tables that it renders."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from localsl import tracking
from localsl.config import Line
from localsl.tables import overview, records, render, report
from localsl.tables.records import Run
from localsl.tables.render import Composed, Row
from localsl.tables.sweeps import Request, Table


def shown(line: Line) -> str | None:
    """What `show=` asks of a sweep, which then runs nothing; None where it is to be run."""
    show = line.base.show if line.base else None
    if line.request is None or show not in ("jobs", "status", "tables", "report"):
        return None
    if show in ("tables", "report"):
        return _rendered(line).table() if show == "tables" else str(_rendered(line).report())
    return (
        overview.status(line.request, line.jobs, line.configs)
        if show == "status"
        else _work(line, line.request)
    )


@contextmanager
def around(line: Line) -> Iterator[None]:
    """Prints what is about to be run and, however that ends, how it ended.

    An error on the way out never takes the place of the one that the runs ended with, nor of its exit code.
    """
    print(_before(line), end="", flush=True)
    try:
        yield
    except BaseException:
        try:
            print(_after(line), end="")
        except Exception as error:
            print(f"and nothing was rendered: {type(error).__name__}: {error}", file=sys.stderr)
        raise
    print(_after(line), end="")


def _before(line: Line) -> str:
    if line.request is None or _shows(line):
        return ""
    return f"{_work(line, line.request)}\n"


def _work(line: Line, request: Request) -> str:
    from localsl.tables import estimate  # imports that no other command line waits for

    return f"{overview.status(request, line.jobs, line.configs)}\n{estimate.work(line.configs)}"


def _after(line: Line) -> str:
    """How several runs ended: their tables rendered, or the runs side by side."""
    if _shows(line):
        return ""
    if line.request is not None:
        return f"\n{_rendered(line).table()}\n"
    if len(line.configs) < 2 or line.configs[0].measure is not None:
        return ""
    return f"\n{tracking.summary(tracking.planned_runs(line.configs))}\n"


def _shows(line: Line) -> bool:
    return bool(line.base and line.base.show)


@dataclass(frozen=True)
class Rendered:
    """The tables of a sweep, rendered to a folder."""

    folder: Path
    tables: list[Table]
    made: dict[str, list[Row]]
    written: dict[str, list[Path]]
    runs: list[Run]

    def table(self) -> str:
        """What was written, a line a table."""
        lines = []
        for name, rows in self.made.items():
            kinds = ",".join(path.suffix for path in self.written[name])
            files = f"{self.folder / name}{{{kinds}}}"
            measured = sum(row["ours_mean"] != "" for row in rows)
            lines.append({"table": name, "rows": len(rows), "measured": measured, "written to": files})
        return tracking.table(lines)

    def report(self) -> Path:
        """All of it on one page."""
        return report.write(self.folder, self.tables, self.made, self.runs)


def _rendered(line: Line) -> Rendered:
    """Render the tables of a sweep, and keep the records behind them.

    Runs of the smoke schedule, of the embedded digits, or of anything but the cells' own networks and rules are
    no results: their tables go to OUTPUT_DIR/results, from the sweep's own runs. The others go to RESULTS_DIR,
    from all records kept there.
    """
    assert line.request is not None
    assert line.base is not None
    rehearsals = any(c.schedule.name == "smoke" or c.dataset.name == "digits" for c in line.configs)
    if rehearsals or line.request.varied:
        folder, runs = Path(line.base.output_dir) / "results", records.of(line.configs)
    else:
        folder = Path(line.base.results_dir)
        records.keep(line.configs)
        runs = records.under(folder / "runs")
    configs = {job.overrides: cfg for job, cfg in zip(line.jobs, line.configs, strict=True)}
    composed = Composed(line.request, configs)
    made = {table.name: render.rows(table, composed, runs) for table in line.request.tables}
    written = {table.name: render.write(folder, table, made[table.name]) for table in line.request.tables}
    return Rendered(folder, line.request.tables, made, written, runs)
