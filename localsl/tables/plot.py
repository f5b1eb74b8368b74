"""Figures of tables that the papers draw as curves or bars: the paper's numbers hollow, ours filled.

Bars are drawn as dots in rows, which need no axis from zero to be compared.
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
    from localsl.tables.sweeps import Table

COLUMNS = 3  # of panels: more would not be read on a telephone


def draw(file: Path, table: Table, made: list[Row]) -> None:
    """Write the figure of a table from its rows."""
    assert table.plot is not None
    where = {key: str(value) for key, value in table.plot.get("where", {}).items()}
    shown = [row for row in made if row[table.plot["x"]] and _within(row, where)]
    figure = (_in_rows if table.plot["kind"] == "bars" else _over)(shown, table.plot["x"], table.plot["lines"])
    canvas.save(file, figure, table.title, _note(shown, where))


def _over(shown: list[Row], x: str, keys: list[str]) -> Figure:
    """A panel a metric, below each other: lines over `x`."""
    metrics, styles = list(dict.fromkeys(row["metric"] for row in shown)), _styles(shown, keys)
    margins = Margins(right=panels.room([names.rule(label) for label in styles]) + 0.15)
    figure, axes = canvas.panels(len(metrics), 1, (3.3, 2.5), margins)
    for metric, (axis,) in zip(metrics, axes, strict=True):
        canvas.describe(axis, names.metric(metric), f"{x} d of the auxiliary networks" if x == "depth" else x)
        panels.lines(axis, list(_series([row for row in shown if row["metric"] == metric], x, keys, styles)))
    return figure


def _in_rows(shown: list[Row], x: str, keys: list[str]) -> Figure:
    """A panel a metric and value of `x`: a row a rule."""
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
    own = [one for one in panel if one[0] == metric]
    return [own[start : start + COLUMNS] for start in range(0, len(own), COLUMNS)]


def _series(
    rows: list[Row], x: str | None, keys: list[str], styles: dict[str, palette.Style]
) -> Iterator[Series]:
    """The paper's numbers of each rule, and ours under each setting."""
    for label, style in styles.items():
        own = [row for row in rows if _label(row, keys) == label]
        once = {row[x] if x else "": row for row in own}
        if own:
            yield _one(list(once.values()), x, label, style, "paper")
        measured = [row for row in own if row["ours_mean"]]
        for setting in dict.fromkeys(map(_setting, measured)):
            yield _one([row for row in measured if _setting(row) == setting], x, label, style, "ours")


def _one(rows: list[Row], x: str | None, label: str, style: palette.Style, whose: str) -> Series:
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
    """What the marks mean, and of which part of the table the figure is."""
    part = [f"K={value}" if key == "K" else names.of(key, value) for key, value in where.items()]
    for key in ("dataset", "backbone"):
        values = {row[key] for row in shown}
        part += [names.of(key, *values)] if len(values) == 1 and key not in where else []
    told = [f"{', '.join(part)}."] if part else []
    measured = any(row["ours_mean"] for row in shown)
    told.append(
        "Hollow: the paper; filled: ours." if measured else "Hollow: the paper; nothing is measured here yet."
    )
    told += (
        ["Bars or bands: one standard deviation."]
        if any(row["paper_std"] or row["ours_std"] for row in shown)
        else []
    )
    told += ["Dashed line: the paper's BP."] if any(row["method"] == palette.REFERENCE for row in shown) else []
    return " ".join(told)


def _within(row: Row, where: dict[str, str]) -> bool:
    """Whether a row is of the part of a table that is drawn; what it does not distinguish is part of it."""
    return all(row[key] in (value, "") for key, value in where.items())


def _label(row: Row, keys: list[str]) -> str:
    return " ".join(filter(None, (row[key] for key in keys)))


def _styles(shown: list[Row], keys: list[str]) -> dict[str, palette.Style]:
    return palette.styles((_label(row, keys), row["method"]) for row in shown)


def _setting(row: Row) -> tuple:
    """What the points of one line share."""
    images = row["measured_on"], row["train_images"], row["test_images"]
    return row["schedule"], row["epochs"], row["batch_size"], row["lr"], row["precision"], *images
