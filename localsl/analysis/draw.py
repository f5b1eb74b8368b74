"""Pictures of what the analyses find, from the rows of their CSV alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no window, whatever the machine has

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

MARKED = 60  # points of a line that have a marker each; more would run together

Row = dict[str, Any]
Panels = Sequence[Sequence[Row]]
"""Rows of the runs of one backbone and data set each."""


def lines(panels: Panels, across: str, up: Sequence[tuple[str, str]], log: Sequence[str] = ()) -> Figure:
    """A panel a column, with a drawing for each of `up`. Rows with equal labels are one line: the mean over
    their runs, in a band of one standard deviation.

    Args:
        across: column of the abscissa.
        up: columns of the ordinates, and what they are in words.
        log: columns of `up` whose axis is logarithmic.
    """
    size = (5.5 * len(panels), 3.6 * len(up) + 0.4)
    figure, axes = plt.subplots(len(up), len(panels), figsize=size, squeeze=False)
    for rows, drawings in zip(panels, axes.T, strict=True):
        for (column, words), axis in zip(up, drawings, strict=True):
            for index, label in enumerate(dict.fromkeys(row["label"] for row in rows)):
                shown = [row for row in rows if row["label"] == label and row.get(column) not in (None, "")]
                _line(axis, shown, across, column, label, f"C{index % 10}")
            axis.set(title=f"{rows[0]['dataset']}, {rows[0]['backbone']}", xlabel=across, ylabel=words)
            axis.set_yscale("log" if column in log else "linear")
            if all(float(row[across]).is_integer() for row in rows):
                axis.xaxis.get_major_locator().set_params(integer=True)
            axis.legend(fontsize=7)
    return figure


def _line(axis: Any, rows: Sequence[Row], across: str, up: str, label: str, colour: str) -> None:
    places = sorted({float(row[across]) for row in rows})
    at = [[float(row[up]) for row in rows if float(row[across]) == place] for place in places]
    means = np.array([statistics.fmean(values) for values in at])
    spread = np.array([statistics.stdev(values) if len(values) > 1 else 0.0 for values in at])
    axis.plot(places, means, "-o" if len(places) <= MARKED else "-", markersize=3, color=colour, label=label)
    if spread.any():
        axis.fill_between(places, means - spread, means + spread, color=colour, alpha=0.2)


def similarity(panels: Panels) -> Figure:
    """CKA by layer, its mean over layers behind each label."""
    shown = []
    for rows in panels:
        means: dict[str, list[float]] = {}
        for row in rows:
            if row["layer"] == "mean":
                means.setdefault(row["label"], []).append(float(row["cka"]))
        told = {label: f"{label} (mean {statistics.fmean(values):.2f})" for label, values in means.items()}
        shown.append([row | {"label": told[row["label"]]} for row in rows if row["layer"] != "mean"])
    return lines(shown, "layer", [("cka", f"{panels[0][0]['estimate']} linear CKA with bp")])


def separability(panels: Panels) -> Figure:
    """Test accuracy of probes by layer."""
    return lines(panels, "layer", [("probe_test_accuracy", "test accuracy of a linear probe (%)")])


def curves(panels: Panels) -> Figure:
    """Loss and accuracy by epoch, of the output layer in training and of the network on test images."""
    up = {"train_loss": "training loss, output layer", "train_accuracy": "training accuracy, output layer (%)"}
    up |= {"test_accuracy": "test accuracy (%)"}
    return lines(panels, "epoch", [*up.items()], log=("train_loss",))


def savings(panels: Panels) -> Figure:
    """Accuracy over the operations saved, a line a depth."""
    shown = [[row | {"label": f"d={row['depth']}"} for row in rows] for rows in panels]
    return lines(shown, "reduction_pct", [("test_accuracy", "test accuracy (%)")])


def tradeoff(panels: Panels) -> Figure:
    """Error over memory, a point a rule, the mean over its runs: below and to the left is better. The error is
    the top-5 one where all runs of a panel have it, as on ImageNet.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(7 * len(panels), 4.4), squeeze=False)
    for rows, axis in zip(panels, axes[0], strict=True):
        top5 = all("top5_error" in row for row in rows)
        column, words = ("top5_error", "top-5 error (%)") if top5 else ("test_error", "test error (%)")
        for label in dict.fromkeys(row["label"] for row in rows):
            shown = [row for row in rows if row["label"] == label]
            memory = statistics.fmean(float(row["peak_memory_bytes"]) for row in shown) / 2**20
            error = statistics.fmean(float(row[column]) for row in shown)
            axis.plot(memory, error, "o", markersize=5)
            axis.annotate(label, (memory, error), (5, 4), textcoords="offset points", fontsize=7)
        epochs, images = (
            " or ".join(dict.fromkeys(str(r[of]) for r in rows)) for of in ("epochs", "train_images")
        )
        axis.set(
            title=f"{rows[0]['dataset']}, {rows[0]['backbone']}: {images} images, {epochs} epochs",
            xlabel=f"peak memory of a training step, batch {rows[0]['batch_size']} (MiB)",
            ylabel=words,
        )
        axis.margins(0.18, 0.12)  # room for the label to the right of the last point
    return figure


def accuracies(panels: Panels) -> Figure:
    """A bar a rule, the mean over its runs, with one standard deviation where there are several."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 4), squeeze=False)
    for rows, axis in zip(panels, axes[0], strict=True):
        values: dict[str, list[float]] = {}
        for row in rows:
            values.setdefault(row["label"], []).append(float(row["test_accuracy"]))
        for index, found in enumerate(values.values()):
            spread = statistics.stdev(found) if len(found) > 1 else None
            axis.bar(index, statistics.fmean(found), yerr=spread, color=f"C{index % 10}")
        axis.set_xticks(range(len(values)), list(values), rotation=45, ha="right", fontsize=7)
        axis.set(title=f"{rows[0]['dataset']}, {rows[0]['backbone']}", ylabel="test accuracy (%)")
    return figure


def grid(panels: Panels) -> Figure:
    """Accuracy by the value of a field, a line a rule: on test images at the last epoch, and on validation images at
    the epoch that they choose where every run has them.
    """
    across = panels[0][0]["across"]
    up = {"test_accuracy": "test accuracy (%)"}
    if all("selected_validation" in row for rows in panels for row in rows):
        up |= {"selected_validation": "validation accuracy at its best epoch (%)"}
    return lines([[row | {across: row["value"]} for row in rows] for rows in panels], across, [*up.items()])


def maps(panels: Panels) -> Figure:
    """A column a run, the image first; a row for each layer of each picture."""
    rows = [row for panel in panels for row in panel if row["values"]]
    columns = list(dict.fromkeys((row["backbone"], row["label"], row["seed"]) for row in rows))
    of = {column: [r for r in rows if (r["backbone"], r["label"], r["seed"]) == column] for column in columns}
    chosen = list(dict.fromkeys(row["picture"] for row in rows))
    depth = max(len({row["layer"] for row in of[column]}) for column in columns)
    size = (1.5 * len(columns), 1.5 * depth * len(chosen) + 0.6)
    figure, axes = plt.subplots(depth * len(chosen), len(columns), figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for column, drawings in zip(columns, axes.T, strict=True):
        drawings[0].set_title(column[1], fontsize=7)
        for number, picture in enumerate(chosen):
            for step, row in enumerate(row for row in of[column] if row["picture"] == picture):
                _map(drawings[number * depth + step], row)
    return figure


def _map(axis: Any, row: Row) -> None:
    values = np.array(row["values"].split(), dtype=float).reshape(int(row["height"]), int(row["width"]))
    axis.imshow(values, cmap="viridis" if row["name"] else "gray")
    axis.text(0.02, 0.98, row["name"], transform=axis.transAxes, fontsize=6, color="w", va="top")


DRAWN: dict[str, Callable[[Panels], Figure]] = {
    "cka": similarity,
    "probes": separability,
    "feature_maps": maps,
    "convergence": curves,
    "pyramid": savings,
    "tradeoff": tradeoff,
    "accuracy": accuracies,
    "grid": grid,
}


def draw(file: Path, kind: str, title: str, panels: Panels) -> None:
    """Write the picture of a kind of analysis as PNG, replaced whole."""
    save(file, DRAWN[kind](panels), title)


def save(file: Path, figure: Figure, title: str) -> None:
    """Write a figure under its title as PNG, replaced whole, and close it."""
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    beside = file.with_name(f".{file.name}")
    figure.savefig(beside, dpi=120, format="png", metadata={"Software": None})
    beside.replace(file)
    plt.close(figure)
