"""The figure of each kind of analysis, from the rows of its CSV alone."""

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
Panels = Sequence[Sequence[Row]]
"""Rows of the runs of one backbone and data set each."""

WIDTH = 3.3  # of axes, in inches


def _where(rows: Sequence[Row]) -> str:
    return f"{names.dataset(rows[0]['dataset'])}, {names.backbone(rows[0]['backbone'])}"


def _by_label(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["label"], []).append(row)
    return found


def _styles(given: Panels) -> dict[str, palette.Style]:
    return palette.styles((row["label"], row.get("method", "")) for rows in given for row in rows)


def _is_reference(label: str) -> bool:
    return label == palette.REFERENCE


def _series(label: str, style: palette.Style, rows: Sequence[Row], across: str | None, up: str) -> Series:
    """The mean over the runs of a label, at each value of `across`."""
    shown = [row for row in rows if row.get(up) not in (None, "")]
    places = sorted({float(row[across]) for row in shown}) if across else [0.0]
    at = [[float(row[up]) for row in shown if not across or float(row[across]) == place] for place in places]
    spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in at]
    means = [statistics.fmean(values) for values in at]
    return Series(names.rule(label), style, means, places, spread, reference=_is_reference(label))


def lines(
    given: Panels,
    across: str,
    up: Sequence[tuple[str, str]],
    log: Sequence[str] = (),
    level: float | None = None,
) -> Figure:
    """A panel a column, with a drawing for each of `up`. Rows with equal labels are one line: the mean over
    their runs, in a band of one standard deviation.

    Args:
        across: column of the abscissa.
        up: columns of the ordinates, and what they are in words.
        log: columns of `up` whose axis is logarithmic.
        level: what backpropagation has everywhere, where it is no line itself.
    """
    styles = _styles(given)
    margins = Margins(right=panels.room([names.rule(label) for label in styles]) + 0.15)
    figure, axes = canvas.panels(len(up), len(given), (WIDTH, 2.5 if len(up) == 1 else 1.9), margins)
    for column, rows in enumerate(given):
        for drawing, (name, words) in enumerate(up):
            axis = axes[drawing][column]
            found = [_series(label, styles[label], own, across, name) for label, own in _by_label(rows).items()]
            canvas.describe(axis, words if len(given) == 1 else f"{_where(rows)}: {words}", across)
            panels.lines(axis, [one for one in found if one.up], name in log, level)
    return figure


def similarity(given: Panels) -> Figure:
    """CKA by layer, its mean over layers behind each label; backpropagation's with itself is 1."""
    shown = []
    for rows in given:
        means = {
            label: [r["cka"] for r in own if r["layer"] == "mean"] for label, own in _by_label(rows).items()
        }
        told = {
            label: f"{label} ({statistics.fmean(map(float, values)):.2f})" for label, values in means.items()
        }
        shown.append([row | {"label": told[row["label"]]} for row in rows if row["layer"] != "mean"])
    return lines(shown, "layer", [("cka", f"{given[0][0]['estimate']} linear CKA with BP")], level=1.0)


def separability(given: Panels) -> Figure:
    """Test accuracy of probes by layer."""
    return lines(given, "layer", [("probe_test_accuracy", "test accuracy of a linear probe (%)")])


def curves(given: Panels) -> Figure:
    """Loss and accuracy by epoch, of the output layer in training and of the network on test images."""
    up = {"train_loss": "training loss, output layer", "train_accuracy": "training accuracy, output layer (%)"}
    up |= {"test_accuracy": "test accuracy (%)"}
    return lines(given, "epoch", [*up.items()], log=("train_loss",))


def savings(given: Panels) -> Figure:
    """Accuracy over the operations saved, a line a depth."""
    shown = [[row | {"label": f"auglocal d={row['depth']}"} for row in rows] for rows in given]
    return lines(shown, "reduction_pct", [("test_accuracy", "test accuracy (%)")])


def tradeoff(given: Panels) -> Figure:
    """Error over memory, a point a rule, the mean over its runs: below and to the left is better. The error is
    the top-5 one where all runs of a panel have it, as on ImageNet.
    """
    styles = _styles(given)
    figure, axes = canvas.panels(1, len(given), (4.6, 3.3), Margins())
    for rows, axis in zip(given, axes[0], strict=True):
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
            " or ".join(dict.fromkeys(f"{int(r[of]):,}" for r in rows)) for of in ("epochs", "train_images")
        )
        memory = f"peak memory of a training step, batch {rows[0]['batch_size']} (MiB)"
        canvas.describe(axis, f"{_where(rows)}: {images} images, {epochs} epochs", memory, words)
        panels.scatter(axis, found)
    return figure


def accuracies(given: Panels) -> Figure:
    """A dot a rule, the best on top: the mean over its runs, with one standard deviation where there are several."""
    styles = _styles(given)
    mean = {
        label: [float(r["test_accuracy"]) for of in given for r in of if r["label"] == label]
        for label in styles
    }
    rules = [names.rule(label) for label in sorted(styles, key=lambda label: -statistics.fmean(mean[label]))]
    margins, size = Margins(left=0.2), (2.6, 0.24 * len(rules) + 0.15)
    figure, axes = canvas.panels(1, len(given), size, margins, first=panels.room(rules) + 0.1)
    for column, (rows, axis) in enumerate(zip(given, axes[0], strict=True)):
        found = [
            _series(label, styles[label], own, None, "test_accuracy") for label, own in _by_label(rows).items()
        ]
        panels.dots(axis, found, rules, named=column == 0)
        canvas.describe(axis, _where(rows), "test accuracy (%)")
    return figure


def grid(given: Panels) -> Figure:
    """Accuracy by the value of a field, a line a rule: on test images at the last epoch, and on validation images at
    the epoch that they choose where every run has them.
    """
    across = given[0][0]["across"]
    up = {"test_accuracy": "test accuracy (%)"}
    if all("selected_validation" in row for rows in given for row in rows):
        up |= {"selected_validation": "validation accuracy at its best epoch (%)"}
    return lines([[row | {across: row["value"]} for row in rows] for rows in given], across, [*up.items()])


def maps(given: Panels) -> Figure:
    """A column a run, the image first; a row for each layer of each picture."""
    rows = [row for panel in given for row in panel if row["values"]]
    columns = list(dict.fromkeys((row["backbone"], row["label"], row["seed"]) for row in rows))
    of = {column: [r for r in rows if (r["backbone"], r["label"], r["seed"]) == column] for column in columns}
    chosen = list(dict.fromkeys(row["picture"] for row in rows))
    depth = max(len({row["layer"] for row in of[column]}) for column in columns)
    around = Margins(left=0.05, right=0.05, top=0.05, bottom=0.05)
    figure, axes = canvas.panels(depth * len(chosen), len(columns), (1.3, 1.3), around)
    for axis in figure.axes:
        axis.set_axis_off()
    for index, column in enumerate(columns):
        axes[0][index].set_title(names.rule(column[1]), fontsize=7)
        for number, picture in enumerate(chosen):
            for step, row in enumerate(row for row in of[column] if row["picture"] == picture):
                _map(axes[number * depth + step][index], row)
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

# What shows the spread over seeds.
SPREAD: dict[str, str] = {"cka": "band", "probes": "band", "convergence": "band", "pyramid": "band"}
SPREAD |= {"accuracy": "bar", "tradeoff": "bar"}


def draw(file: Path, kind: str, title: str, given: Panels) -> None:
    """Write the figure of a kind of analysis as PNG, replaced as a whole."""
    save(file, DRAWN[kind](given), title, _note(kind, given))


def _note(kind: str, given: Panels) -> str:
    """What the reader of a figure has to know beside its marks."""
    told = [f"{_where(given[0])}."] if len(given) == 1 else []
    if kind in SPREAD:
        seeds = {(row["dataset"], row["backbone"], row["label"], row["seed"]) for rows in given for row in rows}
        count = Counter(of[:3] for of in seeds)
        once = dict.fromkeys(names.rule(of[2]) for of, n in sorted(count.items()) if n == 1)
        several = len(once) < len({label for *_, label in count})
        told += [f"{SPREAD[kind].capitalize()}: one standard deviation over seeds."] if several else []
        told += [f"One seed: {', '.join(once)}." if several else "One seed."] if once else []
        told.append("Dashed: backpropagation (BP).")
    if kind == "tradeoff":
        told.append("Lower and further to the left is better.")
    if kind == "cka":
        told.append("In brackets: the mean over layers.")
    return " ".join(told)


def redraw(table: Path, kind: str, title: str) -> Path:
    """Write the figure beside the CSV of an analysis again, from that file alone; returns the figure's file."""
    with table.open(newline="") as lines_of_file:
        rows = list(csv.DictReader(lines_of_file))
    given = [list(of_panel) for _, of_panel in groupby(rows, lambda row: (row["dataset"], row["backbone"]))]
    file = table.with_suffix(".png")
    draw(file, kind, title, given)
    return file
