"""The common layout of figures: panels of fixed size, a title and a note, and writing the file."""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no window, even on a machine with a display

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from localsl.execution.files import replacing

INK, SOFT, FAINT = "#1c2024", "#5a636c", "#e6e9ec"
COLOURS = 192  # in the palette of a file
TEXT = 8.5  # size of labels, in points
LOOK: dict[str, Any] = {
    "font.size": TEXT,
    "axes.labelsize": TEXT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
}


@dataclass(frozen=True)
class Margins:
    """The space around each panel for labels, in inches."""

    left: float = 0.62
    right: float = 0.15
    top: float = 0.3
    bottom: float = 0.5


LINE = 0.165  # height of a line of the title or the note, in inches
TITLE, NOTE = 3 * LINE, 3 * LINE  # space above and below all panels, in inches; unused lines are cut off


def panels(
    rows: int, columns: int, size: tuple[float, float], margins: Margins, first: float | None = None
) -> tuple[Figure, list[list[Any]]]:
    """A figure with a grid of axes.

    Args:
        size: width and height of each of the axes, in inches.
        margins: the space around each of the axes.
        first: the space left of the first column in inches, if it differs from that of the others.
    """
    left = margins.left if first is None else first
    step = size[0] + margins.left + margins.right, size[1] + margins.top + margins.bottom
    width, height = step[0] * columns + left - margins.left, step[1] * rows + TITLE + NOTE
    figure = plt.figure(figsize=(width, height))
    axes = []
    with matplotlib.rc_context(LOOK):  # pyright: ignore[reportArgumentType]
        for row in range(rows):
            bottom = height - TITLE - step[1] * row - margins.top - size[1]
            lefts = [left + step[0] * column for column in range(columns)]
            rectangles = [(x / width, bottom / height, size[0] / width, size[1] / height) for x in lefts]
            axes.append([figure.add_axes(rectangle) for rectangle in rectangles])
    return figure, axes


def describe(axis: Any, title: str, across: str = "", up: str = "") -> None:
    """Set the title and the axis labels of a panel."""
    axis.set_title(title, loc="left", fontsize=9, color=INK)
    axis.set(xlabel=across, ylabel=up)


def save(file: Path, figure: Figure, title: str, note: str = "") -> None:
    """Write a figure with its title as PNG, atomically, and close it.

    Args:
        note: text below all panels that explains their marks.
    """
    width, height = figure.get_size_inches()
    above = textwrap.wrap(
        title, int(width * 72 / 6.7)
    )  # 6.7 points is a letter's mean width at 9.5 points, bold
    below = textwrap.wrap(note, int(width * 72 / 4.4))  # 4.4 points at 7.5 points
    bottom, top = NOTE - LINE * len(below), height - TITLE + LINE * len(above)
    place = {"x": 0.1 / width, "va": "bottom", "linespacing": 1.15}
    figure.text(y=1 - TITLE / height, s="\n".join(above), size=9.5, weight="bold", color=INK, **place)
    figure.text(y=bottom / height, s="\n".join(below), size=7.5, color=SOFT, **place)
    shown = Bbox([[0, bottom - 0.08], [width, top + 0.08]])
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=144, format="png", bbox_inches=shown)
    plt.close(figure)
    # A palette reduces the file to a third: figures are kept in git, and again in the report.
    image = (
        Image.open(drawn).convert("RGB").quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    )
    with replacing(file) as temporary:
        image.save(temporary, "png", optimize=True)
