"""The files of a table: its results as CSV, in the paper's layout as Markdown, and drawn as the paper draws them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

from localsl.execution import files
from localsl.published.numbers import KEYS
from localsl.tables.results import COLUMNS, EARLIER, Row, setting
from localsl.tables.sweep_files import Table


def write(folder: Path, table: Table, made: list[Row]) -> list[Path]:
    """Write FOLDER/<paper>/tableN.csv, .md and, if the paper draws the table, .png; return the written files."""
    stem = folder / table.name
    stem.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(made)
    files.write(stem.with_suffix(".csv"), text.getvalue())
    files.write(stem.with_suffix(".md"), markdown(table, made))
    written = [stem.with_suffix(".csv"), stem.with_suffix(".md")]
    if table.plot is not None:
        from localsl.tables import plot

        plot.draw(stem.with_suffix(".png"), table, made)
        written.append(stem.with_suffix(".png"))
    return written


def markdown(table: Table, made: list[Row]) -> str:
    """The table in the paper's layout, once for each metric and setting: the paper's number, then ours."""
    parts = [f"# {table.name}: {table.title}", ""]
    for metric in dict.fromkeys(row["metric"] for row in made):
        of_metric = [row for row in made if row["metric"] == metric]
        settings = Counter((int(row["epochs"] or 0), words) for row in of_metric if (words := setting(row)))
        # The longest schedule comes first; among equal ones, the setting with the most numbers.
        for _, shown_setting in sorted(settings or [(0, "")], key=lambda found: (-found[0], -settings[found])):
            shown = [row for row in of_metric if setting(row) in ("", shown_setting)]
            shown += [row | {"ours_mean": ""} for row in _others(of_metric, shown_setting)]
            ours = any(row["ours_mean"] for row in shown)
            parts += [
                f"{metric}: paper, then ours ({shown_setting})" if shown_setting else metric + _title(ours),
                "",
            ]
            parts += [*_grid(table, shown), ""]
    notes = [
        f"- {' '.join(filter(None, (row[k] for k in KEYS)))}: {row['note']}" for row in made if row["note"]
    ]
    return "\n".join([*parts, *(["Notes", "", *dict.fromkeys(notes), ""] if notes else [])])


def _title(ours: bool) -> str:
    return ": paper, then ours" if ours else ": paper; not measured yet"


def _others(made: list[Row], shown_setting: str) -> list[Row]:
    """Rows of numbers that were measured only in other settings."""
    shown = {tuple(row[k] for k in KEYS) for row in made if setting(row) == shown_setting}
    others = [row for row in made if setting(row) not in ("", shown_setting)]
    return [row for row in others if tuple(row[k] for k in KEYS) not in shown]


def _grid(table: Table, shown: list[Row]) -> list[str]:
    """A Markdown table with the layout's row keys as rows and its column keys as columns."""
    down, across = table.layout["rows"], table.layout["columns"]
    body: dict[tuple[str, ...], dict[tuple[str, ...], str]] = {}
    heads: dict[tuple[str, ...], None] = {}
    order = {number: i for i, number in enumerate(c.keys for c in table.cells)}
    for row in sorted(shown, key=lambda row: order[tuple(row[k] for k in KEYS)]):
        head = tuple(row[key] for key in across)
        heads.setdefault(head)
        values = body.setdefault(tuple(row[key] for key in down), {})
        if head not in values:
            values[head] = _cell(row)
        elif row["ours_mean"]:
            # The second row of a number in one setting: its rule's earlier default, which has more runs.
            values[head] += f"; {_ours(row)}"
    lines = ["| " + " | ".join([*down, *(" ".join(filter(None, head)) or "value" for head in heads)]) + " |"]
    lines.append("|" + " --- |" * (len(down) + len(heads)))
    for label, values in body.items():
        lines.append("| " + " | ".join([*label, *(values.get(head, "") for head in heads)]) + " |")
    return lines


def _cell(row: Row) -> str:
    paper = (
        row["paper_mean"] + (f" ± {row['paper_std']}" if row["paper_std"] else "") + _reduction(row, "paper")
    )
    return f"{paper} / {_ours(row)}" if row["ours_mean"] else paper


def _ours(row: Row) -> str:
    number = f"{row['ours_mean']} ± {row['ours_std']}" if row["ours_std"] else row["ours_mean"]
    mark = " (earlier form)" if row["status"].startswith(EARLIER) else ""
    return f"**{number}**{mark}{_reduction(row, 'ours')}"


def _reduction(row: Row, whose: str) -> str:
    reduction = row[f"{whose}_reduction_pct"]
    return f" ({-float(reduction):+.1f} %)" if reduction else ""
