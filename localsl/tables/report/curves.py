"""The metrics of a run as curves, and their drawings as SVG."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

LOSS = "output loss, logarithmic (dashed: test)"
POINTS = 150  # of a curve; more would not be visible at the width of a drawing


@dataclass(frozen=True)
class Curve:
    """A line in one of the drawings of a configuration; losses are stored as logarithms to base 10."""

    drawing: str
    across: str
    style: str
    points: list[tuple[float, float]]


def read(metrics: Path) -> Iterator[Curve]:
    """Read the curves of a metrics.csv, with at most about POINTS points each; none if the file is missing."""
    if not metrics.exists():
        return
    with metrics.open(newline="") as lines:
        rows = [{key: float(v) for key, v in row.items() if v} for row in csv.DictReader(lines)]
    rows = rows[: -1 : math.ceil(len(rows) / POINTS)] + rows[-1:]
    accuracies = [(row["epoch"], row["test_accuracy"]) for row in rows if "test_accuracy" in row]
    yield Curve("test accuracy (%)", "epoch", "full", accuracies)
    for style, column in (("full", "ap_box"), ("dashed", "ap_mask")):
        precisions = [(row["epoch"], row[column]) for row in rows if column in row]
        yield Curve("AP of boxes (%), dashed: of masks", "epoch", style, precisions)
    for style, column in (("full", "train_loss"), ("dashed", "test_loss")):
        losses = [(row["epoch"], math.log10(row[column])) for row in rows if row.get(column, 0) > 0]
        yield Curve(LOSS, "epoch", style, losses)
    last = [(key.split("_"), value) for key, value in rows[-1].items()]
    modules = [(float(k[1]), value) for k, value in last if k[0] == "module" and k[2] == "accuracy"]
    yield Curve("training accuracy by module (%)", "module", "full", modules if len(modules) > 1 else [])


class Axes:
    """The axes of a drawing, which all configurations of a panel share.

    Attributes:
        others: the solid lines of all configurations as one path, which each drawing shows in grey.
    """

    LEFT, TOP, RIGHT, BOTTOM = 40, 20, 292, 130

    def __init__(self, name: str, curves: list[Curve]):
        self._name, self._about = name, curves[0]
        across, up = zip(*(point for curve in curves for point in curve.points), strict=True)
        self._x, self._y = _range(across), _range(up)
        full = "".join(self._path(curve) for curve in curves if curve.style == "full")
        self.others = f'<path id="{name}" d="{full}"/>'

    def svg(self, label: str, curves: list[Curve]) -> str:
        """Draw the curves of one configuration."""
        parts = [f'<text y="10">{escape(self._about.drawing)}</text>']
        parts.append(f'<text class="end" x="{self.RIGHT}" y="{self.BOTTOM + 26}">{self._about.across}</text>')
        log = self._about.drawing == LOSS
        for value in _powers(*self._y) if log else _ticks(*self._y):
            place = self._place(self._x[0], value).split(",")[1]
            parts.append(f'<path class="rule" d="M{self.LEFT},{place}H{self.RIGHT}"/>')
            tick = f"{10**value if log else value:.4g}"
            parts.append(f'<text class="end" x="{self.LEFT - 4}" y="{place}" dy="3">{tick}</text>')
        for value in _ticks(*self._x, least=1):
            place = self._place(value, self._y[0]).split(",")[0]
            parts.append(f'<text class="mid" x="{place}" y="{self.BOTTOM + 13}">{value:g}</text>')
        parts.append(f'<use class="others" href="#{self._name}"/>')
        parts += [f'<path class="own {curve.style}" d="{self._path(curve)}"/>' for curve in curves]
        size = f"0 0 {self.RIGHT + 12} {self.BOTTOM + 30}"
        return f'<svg viewBox="{size}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'

    def _path(self, curve: Curve) -> str:
        """The SVG path through the points of a curve; a single point becomes a dot."""
        places = [self._place(*point) for point in curve.points]
        dots = "".join(f"M{place}h0" for place in places) if len(places) == 1 else ""
        return f"M{'L'.join(places)}{dots}"

    def _place(self, x: float, y: float) -> str:
        right = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        across = self.LEFT + (self.RIGHT - self.LEFT) * right
        return f"{across:.1f},{self.BOTTOM - (self.BOTTOM - self.TOP) * up:.1f}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - 1, high + 1)


def _ticks(low: float, high: float, least: float = 0) -> list[float]:
    """About three to seven round numbers in a range, at least `least` apart."""
    unit = 10 ** math.floor(math.log10((high - low) / 3))
    step = max(least, next(unit * m for m in (1, 2, 5, 10) if (high - low) / (unit * m) <= 6))
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _powers(low: float, high: float) -> list[float]:
    """The logarithms of 1, 2, 5, 10, 20 ... in a range, or only of powers of ten if those are too many."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [d + math.log10(m) for d in decades for m in (1, 2, 5) if low <= d + math.log10(m) <= high]
    return ticks if len(ticks) <= 7 else [d for d in decades if low <= d <= high]
