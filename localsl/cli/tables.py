"""What a command line with `sweep=` prints before and after its runs, and the tables and figures it renders."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localsl.config.composition import Composition
from localsl.config.validation import compose
from localsl.core.settings import ConfigError, Problem
from localsl.runs import display, identity, tracking
from localsl.tables import overview, records, render
from localsl.tables.records import Run
from localsl.tables.render import Composed, Row
from localsl.tables.sweeps import Line, Table


def shown(line: Line) -> str | None:
    """What `show=` asks of a sweep, which then runs nothing; None where it is to be run."""
    show = line.base.show if line.base else None
    if show == "jobs":
        return _work(line)
    if line.request is None or show not in ("status", "tables", "figures", "report", "rehearsal"):
        return None
    if show == "rehearsal":
        from localsl.tables import rehearsal  # imports that no other command line waits for

        return rehearsal.rehearse(line)
    if show == "figures":
        return _redrawn(line)
    if show == "report" and any(table.analysis for table in line.request.tables):
        raise ConfigError([Problem("show", "report", "is a page of tables", "type sweep=all, or show=tables")])
    if show in ("tables", "report"):
        return _told(_rendered(line)) if show == "tables" else str(_rendered(line).report())
    return overview.status(line.request, line.jobs, line.configs)


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
    return f"{_work(line)}\n"


def _work(line: Line) -> str:
    """Prints what there is to run, as soon as it is known; returns what it costs in all."""
    if line.request is None:
        asked, told = set(line.jobs), overview.runs(line.jobs, line.configs)
    else:
        asked, told = set(line.request.to_run), overview.status(line.request, line.jobs, line.configs)
    print(told, flush=True)
    from localsl.tables import estimate  # imports that no other command line waits for

    configs = [cfg for job, cfg in zip(line.jobs, line.configs, strict=True) if job in asked]
    *lines, cost = estimate.work(configs)
    print("\n".join(lines), end="\n" if lines else "")
    return cost


def _after(line: Line) -> str:
    """How several runs ended: their tables rendered, or the runs side by side."""
    if _shows(line):
        return ""
    if line.request is not None:
        return f"\n{_told(_rendered(line))}\n"
    first = line.configs[0] if line.configs else None
    if first is None or len(line.configs) < 2 or first.analysis.kind != "none":
        return ""
    if first.measure is not None:
        from localsl.measure.runner import compared

        return compared(line.configs)
    runs = tracking.planned_runs(line.configs)
    told = tracking.told_apart(runs, line.configs)
    return f"\n{display.summary(runs, told)}\n{_over_seeds(line, runs, told)}"


def _over_seeds(line: Line, runs: list[tuple[Path, dict[str, Any]]], told: list[dict[str, str]]) -> str:
    """Figures of the runs that differ in the seed alone."""
    cells = {identity.run_id(cfg): identity.cell_id(cfg) for cfg in line.configs}
    groups: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for (_, record), more in zip(runs, told, strict=True):
        groups.setdefault(cells[record["id"]], []).append((record, more))
    text = display.over_seeds(list(groups.values()))
    return f"\n{text}\n" if text else ""


def _shows(line: Line) -> bool:
    return bool(line.base and line.base.show)


@dataclass(frozen=True)
class Rendered:
    """The tables and figures of a sweep, rendered to a folder."""

    folder: Path
    tables: list[Table]
    made: dict[str, list[Row]]
    written: dict[str, list[Path]]
    runs: list[Run]
    figures: list[dict[str, Any]]
    problems: list[Problem]

    def table(self) -> str:
        """What was written, a line a table or figure."""
        lines = list(self.figures)
        for name, rows in self.made.items():
            kinds = ",".join(path.suffix for path in self.written[name])
            files = f"{self.folder / name}{{{kinds}}}"
            measured = sum(row["ours_mean"] != "" for row in rows)
            lines.append({"table": name, "rows": len(rows), "measured": measured, "written to": files})
        return display.table(lines)

    def report(self) -> Path:
        """All of it on one page."""
        from localsl.tables import report  # imports that no training run waits for

        return report.write(self.folder, self.tables, self.made, self.runs)


def _redrawn(line: Line) -> str:
    """The figures of a sweep drawn again from their CSVs in RESULTS_DIR, which need neither runs nor checkpoints.

    Raises:
        ConfigError: if there are only tables.
    """
    assert line.request is not None
    assert line.base is not None
    asked = [table for table in line.request.tables if table.analysis]
    if not asked:
        raise ConfigError(
            [Problem("show", "figures", "is about figures", "type sweep=figures, or sweep=ours/figures")]
        )
    from localsl.tables import figures  # imports that no table waits for

    folder = Path(line.base.results_dir)
    drawn = [file for figure in asked if (file := figures.redrawn(figure, folder)) is not None]
    return "\n".join(f"written to {file}" for file in drawn) or f"{folder} has no CSV of these figures"


def _told(rendered: Rendered) -> str:
    """What was written.

    Raises:
        ConfigError: with the figures that cannot be drawn and why, after the other tables are printed.
    """
    if rendered.problems:
        print(rendered.table())
        raise ConfigError(rendered.problems)
    return rendered.table()


def _rendered(line: Line) -> Rendered:
    """Render the tables and figures of a sweep, and keep the records behind them.

    Runs of the smoke schedule, of the embedded digits or shapes, or of anything but the cells' own networks and
    rules are no results: their tables go to OUTPUT_DIR/results, from the sweep's own runs. The others go to
    RESULTS_DIR, from all records kept there. Figures go there too, but are of the sweep's own runs only.
    """
    assert line.request is not None
    assert line.base is not None
    rehearsals = any(c.schedule.name == "smoke" or c.dataset.name in ("digits", "shapes") for c in line.configs)
    if rehearsals or line.request.varied:
        folder, runs = Path(line.base.output_dir) / "results", records.of(line.configs)
    else:
        folder = Path(line.base.results_dir)
        records.keep(line.configs)
        runs = records.under(folder / "runs")
    configs = {job.overrides: cfg for job, cfg in zip(line.jobs, line.configs, strict=True)}
    cells = (cell for table in line.request.tables for cell in table.cells)
    composition = Composition()
    configs |= {o: compose(o, composition) for cell in cells for o in line.request.former_overrides(cell)}
    composed = Composed(line.request, configs)
    tables = [table for table in line.request.tables if not table.analysis]
    made = {table.name: render.rows(table, composed, runs) for table in tables}
    written = {table.name: render.write(folder, table, made[table.name]) for table in tables}
    figures, problems = [], []
    for figure in (table for table in line.request.tables if table.analysis):
        from localsl.tables import figures as drawing  # imports that no table waits for

        told, found = drawing.figure(figure, line, folder)
        figures.append(told)
        problems += found
    return Rendered(folder, tables, made, written, runs, figures, problems)
