"""Pictures of tables that the papers draw as curves or bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")  # no window, whatever the machine has

from matplotlib import pyplot as plt

from localsl.analysis.draw import save

Row = dict[str, Any]

if TYPE_CHECKING:
    from localsl.tables.sweeps import Table


def draw(file: Path, table: Table, made: list[Row]) -> None:
    """One panel per metric: the paper's numbers hollow or dashed, ours full, one colour a line of the table."""
    assert table.plot is not None
    x, keys, kind = table.plot["x"], table.plot["lines"], table.plot["kind"]
    where = {key: str(value) for key, value in table.plot.get("where", {}).items()}
    metrics = list(dict.fromkeys(row["metric"] for row in made))
    figure, axes = plt.subplots(1, len(metrics), figsize=(5.5 * len(metrics), 4), squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        shown = [row for row in made if row["metric"] == metric and row[x] and _within(row, where)]
        places = {value: i for i, value in enumerate(dict.fromkeys(row[x] for row in shown))}
        labels = list(dict.fromkeys(_label(row, keys) for row in shown))
        for index, label in enumerate(labels):
            rows = [row for row in shown if _label(row, keys) == label]
            offset = (index - (len(labels) - 1) / 2) * 0.8 / len(labels) if kind == "bars" else 0.0
            paper = {places[row[x]] + offset: float(row["paper_mean"]) for row in rows}
            _series(axis, kind, paper, f"{label}, paper", f"C{index % 10}", False, len(labels))
            measured = [row for row in rows if row["ours_mean"]]
            for setting in dict.fromkeys(_setting(row) for row in measured):
                ours = [row for row in measured if _setting(row) == setting]
                points = {places[row[x]] + offset: float(row["ours_mean"]) for row in ours}
                told = " ".join(str(ours[0][key]) for key in ("schedule", "epochs", "precision")).strip()
                _series(axis, kind, points, f"{label}, ours {told}", f"C{index % 10}", True, len(labels))
        axis.set_xticks(list(places.values()), list(places))
        axis.set_xlabel(x)
        axis.set_ylabel(metric)
        handles, names = axis.get_legend_handles_labels()
        once = dict(zip(names, handles, strict=True))  # settings may differ from one x to the next
        axis.legend(once.values(), once.keys(), fontsize=6)
    save(file, figure, table.title)


def _within(row: Row, where: dict[str, str]) -> bool:
    """Of the part of a table that is drawn; what a row does not distinguish is part of it."""
    return all(row[key] in (value, "") for key, value in where.items())


def _label(row: Row, keys: list[str]) -> str:
    return " ".join(filter(None, (row[key] for key in keys)))


def _setting(row: Row) -> tuple:
    """What one line's points share."""
    images = row["measured_on"], row["train_images"], row["test_images"]
    return row["schedule"], row["epochs"], row["batch_size"], row["lr"], row["precision"], *images


def _series(
    axis: Any, kind: str, points: dict[float, float], label: str, colour: str, full: bool, lines: int
) -> None:
    across, up = list(points), list(points.values())
    if kind == "bars":
        face = colour if full else "none"
        axis.bar(across, up, 0.7 / lines, color=face, edgecolor=colour, label=label, alpha=0.7 if full else 1)
    else:
        axis.plot(across, up, "-o" if full else "--", color=colour, label=label, markersize=4)
