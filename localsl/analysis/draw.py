"""The figure of each kind of analysis, drawn from the rows of its CSV only."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from localsl.analysis import canvas, names, palette, panels
from localsl.analysis.canvas import Margins, save
from localsl.analysis.panels import Series

Row = dict[str, Any]
# For each panel, the rows of the runs of one backbone and data set.
Panels = Sequence[Sequence[Row]]

WIDTH = 3.3  # of axes, in inches


def _where(rows: Sequence[Row]) -> str:
    return f"{names.dataset(rows[0]['dataset'])}, {names.backbone(rows[0]['backbone'])}"


def _by_label(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["label"], []).append(row)
    return found


def _styles(groups: Panels) -> dict[str, palette.Style]:
    return palette.styles((row["label"], row.get("method", "")) for rows in groups for row in rows)


def _is_reference(label: str) -> bool:
    return label == palette.REFERENCE


def _series(label: str, style: palette.Style, rows: Sequence[Row], across: str | None, up: str) -> Series:
    """The mean and deviation over the runs of a label, at each value of `across`."""
    shown = [row for row in rows if row.get(up) not in (None, "")]
    places = sorted({float(row[across]) for row in shown}) if across else [0.0]
    at = [[float(row[up]) for row in shown if not across or float(row[across]) == place] for place in places]
    spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in at]
    means = [statistics.fmean(values) for values in at]
    return Series(names.rule(label), style, means, places, spread, reference=_is_reference(label))


def lines(
    groups: Panels,
    across: str,
    up: Sequence[tuple[str, str]],
    log: Sequence[str] = (),
    level: float | None = None,
) -> Figure:
    """A figure with a column of axes for each group and a row for each of `up`.

    Rows with equal labels become one line, the mean over their runs, with a band of one standard deviation.

    Args:
        across: the CSV column of the abscissa.
        up: the CSV columns of the ordinates, and their descriptions.
        log: columns of `up` with a logarithmic axis.
        level: a constant value of backpropagation, if it is not a line itself.
    """
    styles = _styles(groups)
    margins = Margins(right=panels.room([names.rule(label) for label in styles]) + 0.15)
    figure, axes = canvas.panels(len(up), len(groups), (WIDTH, 2.5 if len(up) == 1 else 1.9), margins)
    for column, rows in enumerate(groups):
        for row, (name, words) in enumerate(up):
            axis = axes[row][column]
            found = [_series(label, styles[label], own, across, name) for label, own in _by_label(rows).items()]
            canvas.describe(axis, words if len(groups) == 1 else f"{_where(rows)}: {words}", across)
            panels.lines(axis, [series for series in found if series.up], name in log, level)
    return figure


def similarity(groups: Panels) -> Figure:
    """CKA by layer, with the mean over layers after each label; that of backpropagation with itself is 1."""
    shown = []
    for rows in groups:
        means = {
            label: [r["cka"] for r in own if r["layer"] == "mean"] for label, own in _by_label(rows).items()
        }
        with_mean = {
            label: f"{label} ({statistics.fmean(map(float, values)):.2f})" for label, values in means.items()
        }
        shown.append([row | {"label": with_mean[row["label"]]} for row in rows if row["layer"] != "mean"])
    return lines(shown, "layer", [("cka", f"{groups[0][0]['estimate']} linear CKA with BP")], level=1.0)


def separability(groups: Panels) -> Figure:
    """Test accuracy of probes by layer."""
    return lines(groups, "layer", [("probe_test_accuracy", "test accuracy of a linear probe (%)")])


def curves(groups: Panels) -> Figure:
    """Loss and accuracy by epoch: of the output layer in training, and of the network on test images."""
    up = {"train_loss": "training loss, output layer", "train_accuracy": "training accuracy, output layer (%)"}
    up |= {"test_accuracy": "test accuracy (%)"}
    return lines(groups, "epoch", [*up.items()], log=("train_loss",))


def savings(groups: Panels) -> Figure:
    """Accuracy against the share of operations saved, with one line per depth."""
    shown = [[row | {"label": f"auglocal d={row['depth']}"} for row in rows] for rows in groups]
    return lines(shown, "reduction_pct", [("test_accuracy", "test accuracy (%)")])


def tradeoff(groups: Panels) -> Figure:
    """Error against memory, with one point per rule, the mean over its runs; lower and further left is better.

    It is the top-5 error if all runs of a panel have it, as on ImageNet.
    """
    styles = _styles(groups)
    figure, axes = canvas.panels(1, len(groups), (4.6, 3.3), Margins())
    for rows, axis in zip(groups, axes[0], strict=True):
        top5 = all(row.get("top5_error") not in (None, "") for row in rows)
        column, words = ("top5_error", "top-5 error (%)") if top5 else ("test_error", "test error (%)")
        found = []
        for label, own in _by_label(rows).items():
            memory = statistics.fmean(float(row["peak_memory_bytes"]) for row in own) / 2**20
            error = _series(label, styles[label], own, None, column)
            found.append(
                Series(error.name, error.style, error.up, [memory], error.spread, False, error.reference)
            )
        epochs, images = (
            " or ".join(dict.fromkeys(f"{int(r[key]):,}" for r in rows)) for key in ("epochs", "train_images")
        )
        memory = f"peak memory of a training step, batch {rows[0]['batch_size']} (MiB)"
        canvas.describe(axis, f"{_where(rows)}: {images} images, {epochs} epochs", memory, words)
        panels.scatter(axis, found)
    return figure


def accuracies(groups: Panels) -> Figure:
    """A dot per rule, the best on top: the mean over its runs, with one standard deviation if there are several."""
    styles = _styles(groups)
    mean = {
        label: [float(r["test_accuracy"]) for rows in groups for r in rows if r["label"] == label]
        for label in styles
    }
    rules = [names.rule(label) for label in sorted(styles, key=lambda label: -statistics.fmean(mean[label]))]
    margins, size = Margins(left=0.2), (2.6, 0.24 * len(rules) + 0.15)
    figure, axes = canvas.panels(1, len(groups), size, margins, first=panels.room(rules) + 0.1)
    for column, (rows, axis) in enumerate(zip(groups, axes[0], strict=True)):
        found = [
            _series(label, styles[label], own, None, "test_accuracy") for label, own in _by_label(rows).items()
        ]
        panels.dots(axis, found, rules, named=column == 0)
        canvas.describe(axis, _where(rows), "test accuracy (%)")
    return figure


def grid(groups: Panels) -> Figure:
    """Accuracy by the value of a field, with one line per rule.

    It is the accuracy on test images at the last epoch and, if all runs have validation images, also that on
    validation images at its best epoch.
    """
    across = groups[0][0]["across"]
    up = {"test_accuracy": "test accuracy (%)"}
    if all("selected_validation" in row for rows in groups for row in rows):
        up |= {"selected_validation": "validation accuracy at its best epoch (%)"}
    return lines([[row | {across: row["value"]} for row in rows] for rows in groups], across, [*up.items()])


def maps(groups: Panels) -> Figure:
    """Feature maps: a column for the images and one per run, and a row for each layer of each image."""
    rows = [row for panel in groups for row in panel if row["values"]]
    columns = list(dict.fromkeys((row["backbone"], row["label"], row["seed"]) for row in rows))
    by_column = {
        column: [r for r in rows if (r["backbone"], r["label"], r["seed"]) == column] for column in columns
    }
    pictures = list(dict.fromkeys(row["picture"] for row in rows))
    depth = max(len({row["layer"] for row in by_column[column]}) for column in columns)
    margins = Margins(left=0.05, right=0.05, top=0.05, bottom=0.05)
    figure, axes = canvas.panels(depth * len(pictures), len(columns), (1.3, 1.3), margins)
    for axis in figure.axes:
        axis.set_axis_off()
    for index, column in enumerate(columns):
        axes[0][index].set_title(names.rule(column[1]), fontsize=7)
        for number, picture in enumerate(pictures):
            for layer, row in enumerate(row for row in by_column[column] if row["picture"] == picture):
                _map(axes[number * depth + layer][index], row)
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

# The mark that shows the deviation over seeds in each kind of figure.
SPREAD: dict[str, str] = {"cka": "band", "probes": "band", "convergence": "band", "pyramid": "band"}
SPREAD |= {"accuracy": "bar", "tradeoff": "bar"}


def draw(file: Path, kind: str, title: str, groups: Panels) -> None:
    """Write the figure of a kind of analysis as PNG, atomically."""
    save(file, DRAWN[kind](groups), title, _note(kind, groups))


def _note(kind: str, groups: Panels) -> str:
    """The note below a figure, which explains its marks."""
    sentences = [f"{_where(groups[0])}."] if len(groups) == 1 else []
    if kind in SPREAD:
        seeds = {
            (row["dataset"], row["backbone"], row["label"], row["seed"]) for rows in groups for row in rows
        }
        count = Counter(key[:3] for key in seeds)
        once = dict.fromkeys(names.rule(label) for (*_, label), n in sorted(count.items()) if n == 1)
        several = len(once) < len({label for *_, label in count})
        sentences += [f"{SPREAD[kind].capitalize()}: one standard deviation over seeds."] if several else []
        sentences += [f"One seed: {', '.join(once)}." if several else "One seed."] if once else []
        sentences.append("Dashed: backpropagation (BP).")
    if kind == "tradeoff":
        sentences.append("Lower and further to the left is better.")
    if kind == "cka":
        sentences.append("In brackets: the mean over layers.")
    return " ".join(sentences)


def redraw(table: Path, kind: str, title: str) -> Path:
    """Draw the figure beside the CSV of an analysis again, from that CSV only; return the figure's file."""
    with table.open(newline="") as lines_of_file:
        rows = list(csv.DictReader(lines_of_file))
    groups = [list(panel) for _, panel in groupby(rows, lambda row: (row["dataset"], row["backbone"]))]
    file = table.with_suffix(".png")
    draw(file, kind, title, groups)
    return file
