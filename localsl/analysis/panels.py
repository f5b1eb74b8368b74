"""The contents of a panel: lines with names at their ends, rows of dots, or named points.

Backpropagation is the reference in each, and drawn as a dashed line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from localsl.analysis import palette, placing
from localsl.analysis.canvas import INK, SOFT, TEXT
from localsl.analysis.palette import Style

MARKED = 60  # the maximum number of points of a line with markers, which would otherwise overlap
HALO = [patheffects.withStroke(linewidth=2.2, foreground="white")]


@dataclass(frozen=True)
class Series:
    """The values of one rule.

    Attributes:
        name: the display name.
        up: means, at the abscissae `across`.
        spread: the standard deviation of each value; 0 or empty for a single run.
        published: whether the values are from a paper; their markers are hollow.
        reference: whether the values are backpropagation's.
    """

    name: str
    style: Style
    up: Sequence[float]
    across: Sequence[float] = (0.0,)
    spread: Sequence[float] = ()
    published: bool = False
    reference: bool = False

    @property
    def face(self) -> str:
        """The colour inside its markers."""
        return "white" if self.published else self.style.colour


def room(names: Sequence[str]) -> float:
    """The width of the longest of these names in inches, with some space on both sides."""
    font = FontProperties(size=TEXT)
    widths = (TextToPath().get_text_width_height_descent(name, font, ismath=False)[0] for name in names)
    return max(widths, default=0) / 72 + 0.2


def lines(axis: Any, series: Sequence[Series], log: bool = False, level: float | None = None) -> None:
    """Draw lines with bands of one standard deviation, each named at its right end.

    Args:
        log: whether the ordinate is logarithmic.
        level: the value of a constant reference.
    """
    if level is not None:
        axis.axhline(level, color=palette.colour(palette.REFERENCE), linewidth=1.6, dashes=(5, 2.5))
    for one in series:
        marker = one.style.marker if len(one.across) <= MARKED and not one.reference else ""
        dashes = (5, 2.5) if one.reference else (2, 1.5) if one.published else (None, None)
        axis.plot(
            one.across, one.up, marker=marker, markersize=4, markerfacecolor=one.face, color=one.style.colour,
            linewidth=1.6 if one.reference else 1.3, dashes=dashes, zorder=3 if one.reference else 2,
        )  # fmt: skip
        if any(one.spread):
            up, spread = np.array(one.up), np.array(one.spread)
            axis.fill_between(
                one.across, up - spread, up + spread, color=one.style.colour, alpha=0.18, linewidth=0
            )
    if log:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7), numticks=8))
        axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.xaxis.get_major_locator().set_params(integer=True)
    _names(axis, series)


def _names(axis: Any, series: Sequence[Series]) -> None:
    """Write names at the right of the panel, as close as possible to the heights at which the lines end."""
    # Of a paper's series and ours with the same name, ours is the last and gets the name.
    named = {one.name: one for one in series if len(one.up)}
    if not named:
        return
    axis.autoscale_view()
    height = axis.get_position().height * axis.figure.get_figheight() * 72
    frame = axis.transAxes.inverted()
    ends = [frame.transform(axis.transData.transform((one.across[-1], one.up[-1]))) for one in named.values()]
    places = placing.spread([float(end[1]) for end in ends], 1.3 * TEXT / height)
    for (name, one), end, place in zip(named.items(), ends, places, strict=True):
        axis.annotate(
            name, end, (1.045, place), xycoords="axes fraction", textcoords="axes fraction", va="center",
            size=TEXT, color=palette.readable(one.style.colour), annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": one.style.colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip


def dots(axis: Any, series: Sequence[Series], names: Sequence[str], named: bool) -> None:
    """Draw a row for each name, the first on top, with means as dots and one standard deviation as bars.

    Args:
        named: whether the names are written left of this panel.
    """
    for reference in (one for one in series if one.reference):
        axis.axvline(reference.up[0], color=reference.style.colour, linewidth=1, dashes=(5, 2.5), zorder=1)
    for row, name in enumerate(names):
        of_name = [one for one in series if one.name == name]
        offsets = (np.arange(len(of_name)) - (len(of_name) - 1) / 2) * min(0.3, 0.7 / max(1, len(of_name)))
        for one, offset in zip(of_name, offsets, strict=True):
            spread = one.spread[0] if any(one.spread) else None
            axis.errorbar(
                one.up[0], row + offset, xerr=spread, fmt=one.style.marker, color=one.style.colour, markersize=5.5,
                markerfacecolor=one.face, markeredgewidth=1.2, elinewidth=1.4, capsize=2.5,
            )  # fmt: skip
    axis.set_ylim(len(names) - 0.45, -0.55)
    axis.set_yticks(range(len(names)), names if named else [""] * len(names))
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.grid(visible=False, axis="y")
    axis.margins(x=0.12)
    axis.xaxis.get_major_locator().set_params(nbins=4)


def scatter(axis: Any, series: Sequence[Series]) -> None:
    """Draw a named point for each series, with one standard deviation as a bar, and lines through the reference."""
    for one in series:
        if one.reference:
            axis.axhline(one.up[0], color=SOFT, linewidth=0.9, dashes=(5, 2.5), zorder=1)
            axis.axvline(one.across[0], color=SOFT, linewidth=0.9, dashes=(5, 2.5), zorder=1)
        axis.errorbar(
            one.across[0], one.up[0], yerr=one.spread[0] if any(one.spread) else None, fmt=one.style.marker,
            color=one.style.colour, markersize=6, elinewidth=1.2, capsize=2.5,
        )  # fmt: skip
    axis.margins(0.08, 0.1)
    axis.autoscale_view()
    low, high = axis.get_xlim()
    width = axis.get_position().width * axis.figure.get_figwidth()
    # Leave space for the name of the rightmost point.
    axis.set_xlim(low, low + (high - low) / (1 - room([one.name for one in series]) / width))
    points = [(one.across[0], one.up[0]) for one in series]
    crossing = [index for index, one in enumerate(series) if one.reference]
    placing.label_points(
        axis, points, [one.name for one in series], crossing, size=TEXT, color=INK, path_effects=HALO
    )
