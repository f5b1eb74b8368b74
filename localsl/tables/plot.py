"""Figures of tables that the papers draw as curves or bars, hollow for the paper and filled for ours.

Bars are drawn as rows of dots, which can be compared without an axis that starts at zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from localsl.analysis import canvas, names, palette, panels
from localsl.analysis.canvas import Margins
from localsl.analysis.panels import Series

Row = dict[str, Any]

if TYPE_CHECKING:
    from localsl.tables.sweep_files import Table

COLUMNS = 3  # of panels, so that a figure remains readable on a phone


def draw(file: Path, table: Table, made: list[Row]) -> None:
    """Write the figure of a table from its rows."""
    assert table.plot is not None
    where = {key: str(value) for key, value in table.plot.get("where", {}).items()}
    shown = [row for row in made if row[table.plot["x"]] and _is_shown(row, where)]
    panels_of = _dot_panels if table.plot["kind"] == "bars" else _line_panels
    figure = panels_of(shown, table.plot["x"], table.plot["lines"])
    canvas.save(file, figure, table.title, _note(shown, where))


def _line_panels(shown: list[Row], x: str, keys: list[str]) -> Figure:
    """One panel per metric, stacked vertically, with lines over `x`."""
    metrics, styles = list(dict.fromkeys(row["metric"] for row in shown)), _styles(shown, keys)
    margins = Margins(right=panels.room([names.rule(label) for label in styles]) + 0.15)
    figure, axes = canvas.panels(len(metrics), 1, (3.3, 2.5), margins)
    for metric, (axis,) in zip(metrics, axes, strict=True):
        canvas.describe(axis, names.metric(metric), f"{x} d of the auxiliary networks" if x == "depth" else x)
        panels.lines(axis, list(_series([row for row in shown if row["metric"] == metric], x, keys, styles)))
    return figure


def _dot_panels(shown: list[Row], x: str, keys: list[str]) -> Figure:
    """One panel per metric and value of `x`, with one row of dots per rule."""
    styles = _styles(shown, keys)
    panel = list(dict.fromkeys((row["metric"], row[x]) for row in shown))
    lines = [line for metric in dict.fromkeys(m for m, _ in panel) for line in _lines(panel, metric)]
    rules = [names.rule(label) for label in styles]
    size, side = (1.35, 0.24 * len(rules) + 0.15), panels.room(rules)
    figure, axes = canvas.panels(len(lines), max(map(len, lines)), size, Margins(left=0.15), first=side)
    for line, of_line in zip(lines, axes, strict=True):
        for axis in of_line[len(line) :]:
            axis.set_visible(False)
        for column, ((metric, value), axis) in enumerate(zip(line, of_line, strict=False)):
            rows = [row for row in shown if (row["metric"], row[x]) == (metric, value)]
            panels.dots(axis, list(_series(rows, None, keys, styles)), rules, named=column == 0)
            canvas.describe(axis, names.of(x, value), names.metric(metric))
    return figure


def _lines(panel: list[tuple[str, str]], metric: str) -> list[list[tuple[str, str]]]:
    own = [entry for entry in panel if entry[0] == metric]
    return [own[start : start + COLUMNS] for start in range(0, len(own), COLUMNS)]


def _series(
    rows: list[Row], x: str | None, keys: list[str], styles: dict[str, palette.Style]
) -> Iterator[Series]:
    """For each rule the series of the paper, and one of ours for each setting."""
    for label, style in styles.items():
        own = [row for row in rows if _label(row, keys) == label]
        once = {row[x] if x else "": row for row in own}
        if own:
            yield _ordered_series(list(once.values()), x, label, style, "paper")
        measured = [row for row in own if row["ours_mean"]]
        for setting in dict.fromkeys(map(_setting, measured)):
            yield _ordered_series(
                [row for row in measured if _setting(row) == setting], x, label, style, "ours"
            )


def _ordered_series(rows: list[Row], x: str | None, label: str, style: palette.Style, whose: str) -> Series:
    ordered = sorted(rows, key=lambda row: float(row[x])) if x else rows
    return Series(
        name=names.rule(label),
        style=style,
        up=[float(row[f"{whose}_mean"]) for row in ordered],
        across=[float(row[x]) for row in ordered] if x else [0.0],
        spread=[float(row[f"{whose}_std"] or 0) for row in ordered],
        published=whose == "paper",
        reference=label == palette.REFERENCE and whose == "paper",
    )


def _note(shown: list[Row], where: dict[str, str]) -> str:
    """The caption: the part of the table that is shown, and the meaning of the marks."""
    part = [f"K={value}" if key == "K" else names.of(key, value) for key, value in where.items()]
    for key in ("dataset", "backbone"):
        values = {row[key] for row in shown}
        part += [names.of(key, *values)] if len(values) == 1 and key not in where else []
    sentences = [f"{', '.join(part)}."] if part else []
    measured = any(row["ours_mean"] for row in shown)
    sentences.append(
        "Hollow: the paper; filled: ours." if measured else "Hollow: the paper; nothing is measured here yet."
    )
    sentences += (
        ["Bars or bands: one standard deviation."]
        if any(row["paper_std"] or row["ours_std"] for row in shown)
        else []
    )
    sentences += (
        ["Dashed line: the paper's BP."] if any(row["method"] == palette.REFERENCE for row in shown) else []
    )
    return " ".join(sentences)


def _is_shown(row: Row, where: dict[str, str]) -> bool:
    """Whether a row belongs to the part of a table that is drawn; a row without a key belongs to every part."""
    return all(row[key] in (value, "") for key, value in where.items())


def _label(row: Row, keys: list[str]) -> str:
    return " ".join(filter(None, (row[key] for key in keys)))


def _styles(shown: list[Row], keys: list[str]) -> dict[str, palette.Style]:
    return palette.styles((_label(row, keys), row["method"]) for row in shown)


def _setting(row: Row) -> tuple:
    """The setting that all points of a line have in common."""
    images = row["measured_on"], row["train_images"], row["test_images"]
    return row["schedule"], row["epochs"], row["batch_size"], row["lr"], row["precision"], *images
