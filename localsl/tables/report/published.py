"""A paper's table on the page: its figure, the measured numbers, and a folded list of the cells to run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from localsl.analysis import names
from localsl.runs import identity
from localsl.runs.stored import Run
from localsl.tables.report import markup, pictures, progress, settings
from localsl.tables.report.markup import FilterKeys, Html
from localsl.tables.results import Row
from localsl.tables.sweep_files import MEASURED_ALONE, Cell, Table
from localsl.tables.sweeps import started_from

# Keys shown in addition to the rule; those with the same value in all lines are stated once above the table.
SHOWN_KEYS = ("part", "dataset", "backbone", "K", "variant", "metric")
HEADS = {"dataset": "data set"}
COUNTED = {"fewer seeds": "with fewer seeds", "shortened": "after shortened training"}  # states in a count


def article(
    table: Table, made: Sequence[Row], codes: dict[str, str], by_id: dict[str, Run], results: Path
) -> str:
    """The HTML of a table, with its heading."""
    number = table.name.split("/")[1].removeprefix("table")
    measured = [row for row in made if progress.is_measured(row)]
    shared, varying = _shared(measured or made)
    words = " · ".join(shared)
    seeds = " or ".join(map(str, sorted({table.seeds_of(cell) for cell in table.cells}, reverse=True)))
    about = [
        f"{table.name}.csv; {seeds} {'seed' if seeds == '1' else 'seeds'} per cell",
        "" if measured else words,
    ]
    return (
        f'<article id="{markup.anchor(table.name)}"><h3>Table {escape(number)}. {escape(table.title)}</h3>'
        f"{markup.paragraphs('about', *about)}{pictures.of_table(results, table)}"
        f"{markup.paragraphs('about', f'Measured: {words}') if measured and words else ''}"
        f"{_measured(table, measured, varying, codes)}{_settings(measured, codes)}"
        f"{_to_run(table, made, codes, by_id)}</article>\n"
    )


def _settings(measured: Sequence[Row], codes: dict[str, str]) -> str:
    """The settings that occur in a table, in words and folded."""
    found = {settings.describe(row) for row in measured} - {""}
    used = {codes[words]: words for words in codes if words in found}
    lines = markup.paragraphs("about", *(f"{code}: {words}" for code, words in used.items()))
    return markup.folded(f"Settings: {', '.join(used)}", lines) if used else ""


def command(table: Table, cell: Cell, measure: str | None = None, run: Run | None = None) -> str:
    """The command for a cell: its measurement, or all its seeds with the paper's setting or with that of a run."""
    if measure is not None:
        return shlex.join(["python", "run.py", *cell.overrides, f"measure={measure}"])
    typed = list(cell.overrides)
    if run is not None:
        setting = {"schedule": run.values["schedule"]["name"]} | identity.setting(run.values)
        typed += [f"{key}={'null' if value is None else value}" for key, value in setting.items()]
    elif cell.backbone_run:
        typed.append(started_from(cell.backbone_run))
    seeds = ",".join(map(str, range(table.seeds)))
    return shlex.join(["python", "run.py", "-m", *typed, f"seed={seeds}"])


def _shared(made: Sequence[Row]) -> tuple[list[str], list[str]]:
    """The values that all rows share, in words, and the keys in which they differ.

    The empty K of backpropagation does not count as a difference.
    """
    values = {key: list(dict.fromkeys(row[key] for row in made)) for key in SHOWN_KEYS}
    values["K"] = [value for value in values["K"] if value] or [""]
    shared = {key: next(iter(found), "") for key, found in values.items() if len(found) < 2}
    words = [f"K={value}" if key == "K" else names.of(key, value) for key, value in shared.items() if value]
    return words, [key for key in SHOWN_KEYS if key not in shared]


def _cell(row: Row, varying: Sequence[str]) -> dict[str, Any]:
    """The columns that identify a line."""
    label = " ".join(filter(None, (row["method"], row["base"], row["depth"] and f"d={row['depth']}")))
    return {"rule": markup.rule(label)} | {HEADS.get(key, key): names.of(key, row[key]) for key in varying}


def _filter_keys(row: Row) -> FilterKeys:
    return FilterKeys(row["dataset"], row["backbone"], row["method"])


def _measured(table: Table, rows: Sequence[Row], varying: Sequence[str], codes: dict[str, str]) -> str:
    """The table of measured numbers, with a line for each number and setting."""
    lines = []
    for row in rows:
        code = codes.get(settings.describe(row), "")
        words, reason = progress.status(row)
        line = _cell(row, varying) | {"setting": markup.link(code, code)}
        line["paper"] = markup.mean(row["paper_mean"], row["paper_std"])
        line["ours"] = Html(f"<b>{escape(markup.mean(row['ours_mean'], row['ours_std']))}</b>")
        line |= {"difference": row["difference"], "n": row["n"]}
        line["status"] = Html(f'<span class="{progress.state(row).replace(" ", "-")}">{escape(words)}</span>')
        line["best epoch"] = markup.mean(row["best_mean"], row["best_std"])
        lines.append(line | {"remarks": "; ".join(filter(None, (reason, row["note"])))})
    return markup.grid(table.title, lines, [_filter_keys(row) for row in rows], ["ours"])


def _to_run(table: Table, made: Sequence[Row], codes: dict[str, str], by_id: dict[str, Run]) -> str:
    """The numbers that lack a measurement or seeds, each with the command that measures it."""
    cells = {cell.keys: cell for cell in table.cells}
    rows = [row for row in made if progress.state(row) != "done"]
    shared, varying = _shared(rows)
    lines = []
    for row in rows:
        measure, code = MEASURED_ALONE.get(row["metric"]), codes.get(settings.describe(row), "")
        words, reason = progress.status(row)
        line = _cell(row, varying) | {"paper": markup.mean(row["paper_mean"], row["paper_std"])}
        line |= {"status": words, "setting": markup.link(code, code), "command": ""}
        if progress.state(row) in ("fewer seeds", "shortened", "missing"):
            partial = progress.state(row) == "fewer seeds"
            run = by_id.get(row["runs"].split(" ")[0]) if partial else None
            typed = command(table, cells[progress.keys(row)], measure, run)
            line["command"] = Html(f"<code>{escape(typed)}</code>")
        lines.append(line | {"remarks": "; ".join(filter(None, (reason, row["note"])))})
    if not lines:
        return ""
    count = progress.states(made)
    words = [f"{count[state]} {COUNTED.get(state, state)}" for state in progress.STATES[1:] if count[state]]
    whole = f"make {table.name.split('/')[1]} PAPER={table.paper}"
    shown = f'<span class="count" data-all="{len(lines)}"></span>'
    summary = f"To run: {', '.join(words)} {shown}<code>{escape(whole)}</code>"
    lines_shown = markup.grid(f"To run for {table.name}", lines, [_filter_keys(row) for row in rows])
    return markup.folded(summary, f"{markup.paragraphs('about', ' · '.join(shared))}{lines_shown}", "to-run")
