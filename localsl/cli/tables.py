"""The output of a sweep before and after its runs, and the rendering of its tables and figures."""

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
from localsl.runs import display, identity, stored
from localsl.runs.stored import Run
from localsl.tables import overview, records, render, results
from localsl.tables.results import Composed, Row
from localsl.tables.sweep_files import Table
from localsl.tables.sweeps import Line


def shown(line: Line) -> str | None:
    """The output for `show=` of a sweep, which is then not run; None if the command line is to be run."""
    show = line.base.show if line.base else None
    if show == "jobs":
        return _work(line)
    if line.request is None or show not in ("status", "tables", "figures", "report", "rehearsal"):
        return None
    if show == "rehearsal":
        from localsl.tables import rehearsal  # imported here because no other command line needs it

        return rehearsal.rehearse(line)
    if show == "figures":
        return _redrawn(line)
    if show == "report" and any(table.analysis for table in line.request.tables):
        raise ConfigError([Problem("show", "report", "covers tables only", "type sweep=all, or show=tables")])
    if show in ("tables", "report"):
        return _summary(_rendered(line)) if show == "tables" else str(_rendered(line).report())
    return overview.status(line.request, line.jobs, line.configs, _states(line))


@contextmanager
def reporting(line: Line) -> Iterator[None]:
    """Print the planned work before the runs, and their results after them, however they end.

    An error while results are printed never replaces the error of the runs, nor its exit code.
    """
    print(_before(line), end="", flush=True)
    try:
        yield
    except BaseException:
        try:
            print(_after(line), end="")
        except Exception as error:
            print(f"the results cannot be rendered: {type(error).__name__}: {error}", file=sys.stderr)
        raise
    print(_after(line), end="")


def _before(line: Line) -> str:
    if line.request is None or _shows(line):
        return ""
    return f"{_work(line)}\n"


def _work(line: Line) -> str:
    """Print the list of runs at once, then the estimated work; return its total cost."""
    states = _states(line)
    if line.request is None:
        selected, text = set(line.jobs), overview.runs(line.jobs, line.configs, states)
    else:
        selected, text = (
            set(line.request.to_run),
            overview.status(line.request, line.jobs, line.configs, states),
        )
    print(text, flush=True)
    from localsl.tables import estimate  # imported here because no other command line needs it

    to_train = [
        cfg
        for job, cfg, state in zip(line.jobs, line.configs, states, strict=True)
        if job in selected and cfg.measure is None and state != "done"
    ]
    *lines, cost = estimate.work(to_train)
    print("\n".join(lines), end="\n" if lines else "")
    return cost


def _states(line: Line) -> list[str]:
    return [records.state(cfg) for cfg in line.configs]


def _after(line: Line) -> str:
    """The results of several runs: their tables if they belong to a sweep, otherwise a comparison."""
    if _shows(line):
        return ""
    if line.request is not None:
        return f"\n{_summary(_rendered(line))}\n"
    first = line.configs[0] if line.configs else None
    if first is None or len(line.configs) < 2 or first.analysis.kind != "none":
        return ""
    if first.measure is not None:
        from localsl.measure.runner import compared

        return compared(line.configs)
    runs = stored.planned_runs(line.configs)
    distinctions = stored.distinctions(runs, line.configs)
    return f"\n{display.summary(runs, distinctions)}\n{_over_seeds(line, runs, distinctions)}"


def _over_seeds(line: Line, runs: list[Run], distinctions: list[dict[str, str]]) -> str:
    """The mean and standard deviation over runs that differ in the seed only."""
    cells = {identity.run_id(cfg): identity.cell_id(cfg) for cfg in line.configs}
    groups: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for run, columns in zip(runs, distinctions, strict=True):
        groups.setdefault(cells[run.record["id"]], []).append((run.record, columns))
    text = display.over_seeds(list(groups.values()))
    return f"\n{text}\n" if text else ""


def _shows(line: Line) -> bool:
    return bool(line.base and line.base.show)


@dataclass(frozen=True)
class Rendered:
    """The tables and figures of a sweep, rendered to a folder.

    Attributes:
        made: the rows of each table by its name.
        written: the files of each table by its name.
        figures: a row for the summary of each figure.
        problems: why figures could not be drawn.
    """

    folder: Path
    tables: list[Table]
    made: dict[str, list[Row]]
    written: dict[str, list[Path]]
    runs: list[Run]
    figures: list[dict[str, Any]]
    problems: list[Problem]

    def table(self) -> str:
        """A summary of the written files, with one row per table or figure."""
        lines = list(self.figures)
        for name, rows in self.made.items():
            kinds = ",".join(path.suffix for path in self.written[name])
            files = f"{self.folder / name}{{{kinds}}}"
            measured = sum(row["ours_mean"] != "" for row in rows)
            lines.append({"table": name, "rows": len(rows), "measured": measured, "written to": files})
        return display.table(lines)

    def report(self) -> Path:
        """Write all tables and curves to one page, and return its path."""
        from localsl.tables import report  # imported here because no training run needs it

        return report.write(self.folder, self.tables, self.made, self.runs)


def _redrawn(line: Line) -> str:
    """Draw the figures of a sweep again from their CSV files in RESULTS_DIR, without runs or checkpoints.

    Raises:
        ConfigError: if the sweep has no figures.
    """
    assert line.request is not None
    assert line.base is not None
    selected = [table for table in line.request.tables if table.analysis]
    if not selected:
        raise ConfigError(
            [
                Problem(
                    "show", "figures", "needs a sweep of figures", "type sweep=figures, or sweep=ours/figures"
                )
            ]
        )
    from localsl.tables import figures  # imported here because no table needs it

    folder = Path(line.base.results_dir)
    drawn = [file for figure in selected if (file := figures.redrawn(figure, folder)) is not None]
    return "\n".join(f"written to {file}" for file in drawn) or f"{folder} has no CSV of these figures"


def _summary(rendered: Rendered) -> str:
    """A summary of the written files.

    Raises:
        ConfigError: with the reasons why figures cannot be drawn, after the summary is printed.
    """
    if rendered.problems:
        print(rendered.table())
        raise ConfigError(rendered.problems)
    return rendered.table()


def _rendered(line: Line) -> Rendered:
    """Render the tables and figures of a sweep, and copy the records of its runs.

    Runs with the smoke schedule, on the embedded digits or shapes, or of cells with a changed network or rule are not
    results: their tables are written to OUTPUT_DIR/results, from the runs of this sweep. Other tables are written to
    RESULTS_DIR, from all records kept there. Figures go to the same folder, but only use the runs of this sweep.
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
    made = {table.name: results.rows(table, composed, runs) for table in tables}
    written = {table.name: render.write(folder, table, made[table.name]) for table in tables}
    figures, problems = [], []
    for figure in (table for table in line.request.tables if table.analysis):
        from localsl.tables import figures as drawing  # imported here because no table needs it

        row, reasons = drawing.figure(figure, line, folder)
        figures.append(row)
        problems += reasons
    return Rendered(folder, tables, made, written, runs, figures, problems)
