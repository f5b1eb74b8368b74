"""Placing labels next to what they name, so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.transforms import Bbox

# Positions of a label around a point: alignment and direction, the best first.
AROUND = [("left", "center", 1, 0), ("left", "bottom", 0.8, 0.7), ("left", "top", 0.8, -0.7)]
AROUND += [("center", "bottom", 0, 1), ("center", "top", 0, -1), ("right", "center", -1, 0)]
AROUND += [("right", "bottom", -0.8, 0.7), ("right", "top", -0.8, -0.7)]
DISTANCES = (6, 10, 16, 24)  # from the point, in typographic points

# Costs that are added to the distance for each text or point that a label covers, and for each line that it crosses.
COVERED, CROSSED = 1000, 30
ROUNDS = 10  # the maximum number of times that all labels are moved


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places at least `gap` apart, in the order of `wanted` and closest to it in the least-squares sense.

    This is isotonic regression of `wanted[i] - rank * gap` by pooling adjacent violators.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # places that touch each other, without the gaps between them
    for rank, index in enumerate(order):
        blocks.append([wanted[index] - rank * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    level = [float(np.mean(block)) for block in blocks for _ in block]
    places = [0.0] * len(order)
    for rank, index in enumerate(order):
        places[index] = level[rank] + rank * gap
    return places


@dataclass(frozen=True)
class Place:
    """A possible place of a label.

    Attributes:
        offset: of its anchor from the point, in typographic points.
        anchor: the alignment of the text at the anchor, such as ("left", "center").
        box: the area that the text covers, in pixels.
        cost: the cost of the place itself, which grows with the distance from the point.
    """

    offset: tuple[float, float]
    anchor: tuple[str, str]
    box: Bbox
    cost: float


def label_points(
    axis: Any,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    crossing: Sequence[int] = (),
    **style: Any,
) -> list[Any]:
    """Label the points of a scatter plot so that texts cover no point, no text, no edge and, if possible, no line.

    Each label in turn takes the best place given the places of all others, until none moves. A thin line connects a
    distant text with its point.

    Args:
        crossing: indices of points with a horizontal and a vertical line through them.
    """
    scale = axis.figure.dpi / 72
    pixels = axis.transData.transform(np.array(points, dtype=float))
    marks = [Bbox.from_bounds(x - 4 * scale, y - 4 * scale, 8 * scale, 8 * scale) for x, y in pixels]
    lines = []
    for x, y in pixels[list(crossing)]:
        lines += [Bbox([[x, axis.bbox.y0], [x, axis.bbox.y1]]), Bbox([[axis.bbox.x0, y], [axis.bbox.x1, y]])]
    possible = [_places(axis, text, at, scale, **style) for text, at in zip(texts, pixels, strict=True)]
    fixed_costs = []
    for index, places in enumerate(possible):
        fixed_costs.append(
            [place.cost + _cost(place.box, index, axis.bbox, marks, lines, pixels) for place in places]
        )
    chosen = [int(np.argmin(costs)) for costs in fixed_costs]
    for _ in range(ROUNDS):
        before = list(chosen)
        for index, places in enumerate(possible):
            others = [possible[i][chosen[i]].box for i in range(len(possible)) if i != index]
            costs = [
                fixed_costs[index][i] + COVERED * _overlaps(place.box, others) for i, place in enumerate(places)
            ]
            chosen[index] = int(np.argmin(costs))
        if chosen == before:
            break
    taken = [places[place] for places, place in zip(possible, chosen, strict=True)]
    return [_label(axis, *label, **style) for label in zip(texts, points, taken, strict=True)]


def _places(axis: Any, text: str, at: Any, scale: float, **style: Any) -> list[Place]:
    measured = axis.text(0, 0, text, **style)
    width, height = measured.get_window_extent(axis.figure.canvas.get_renderer()).padded(scale).size
    measured.remove()
    places = []
    for distance in DISTANCES:
        for rank, (across, up, x, y) in enumerate(AROUND):
            left = at[0] + x * distance * scale - width * {"left": 0, "center": 0.5, "right": 1}[across]
            bottom = at[1] + y * distance * scale - height * {"bottom": 0, "center": 0.5, "top": 1}[up]
            box = Bbox.from_bounds(left, bottom, width, height)
            places.append(Place((x * distance, y * distance), (across, up), box, distance + rank / 2))
    return places


def _cost(box: Bbox, index: int, frame: Bbox, marks: list[Bbox], lines: list[Bbox], pixels: Any) -> float:
    """The cost of covering or crossing fixed things, leaving the frame, or being closer to another point."""
    outside = not (frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
    gaps = np.maximum(0, np.maximum(box.min - pixels, pixels - box.max))
    ambiguous = int(np.argmin(np.hypot(gaps[:, 0], gaps[:, 1]))) != index
    return COVERED * (_overlaps(box, marks) + outside + ambiguous) + CROSSED * _overlaps(box, lines)


def _overlaps(box: Bbox, others: Sequence[Bbox]) -> int:
    """The number of other boxes, or lines as boxes without area, that a box overlaps."""
    return sum(box.x0 < o.x1 and o.x0 < box.x1 and box.y0 < o.y1 and o.y0 < box.y1 for o in others)


def _label(axis: Any, text: str, point: tuple[float, float], place: Place, **style: Any) -> Any:
    line = {"arrowstyle": "-", "color": "#9aa1a8", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
    distant = np.hypot(*place.offset) > DISTANCES[1]
    return axis.annotate(
        text, point, place.offset, textcoords="offset points", ha=place.anchor[0], va=place.anchor[1],
        arrowprops=line if distant else None, **style,
    )  # fmt: skip
