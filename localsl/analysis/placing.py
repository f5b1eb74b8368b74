"""Places for labels beside what they name, so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.text import Text
from matplotlib.transforms import Bbox

# Where a label may stand beside a point: an alignment and a direction, the best first.
AROUND = [("left", "center", 1, 0), ("left", "bottom", 0.8, 0.7), ("left", "top", 0.8, -0.7)]
AROUND += [("center", "bottom", 0, 1), ("center", "top", 0, -1), ("right", "center", -1, 0)]
AROUND += [("right", "bottom", -0.8, 0.7), ("right", "top", -0.8, -0.7)]
DISTANCES = (6, 10, 16, 24)  # in points from the point; the nearest that is free


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places in the order of `wanted` that are at least `gap` apart and differ the least from it, by squares."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # of neighbours that touch: each one's wanted place less its distance to the first
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


def beside(
    axis: Any, points: Sequence[tuple[float, float]], texts: Sequence[str], crossing: Sequence[int] = (), **style: Any
) -> list[Any]:
    """Label the points of a scatter plot, each where its text covers no point, no text, no line and no edge.

    Points in a crowd choose first. A text further away than usual has a thin line to its point.

    Args:
        crossing: indices of points through which a horizontal and a vertical line go.
    """
    renderer = axis.figure.canvas.get_renderer()
    scale = axis.figure.dpi / 72
    pixels = axis.transData.transform(np.array(points, dtype=float))
    taken = [Bbox.from_bounds(x - 4 * scale, y - 4 * scale, 8 * scale, 8 * scale) for x, y in pixels]
    for x, y in pixels[list(crossing)]:
        taken += [Bbox([[x, axis.bbox.y0], [x, axis.bbox.y1]]), Bbox([[axis.bbox.x0, y], [axis.bbox.x1, y]])]
    distance = np.linalg.norm(pixels[:, None] - pixels[None], axis=-1)
    crowd = np.sort(distance, axis=1)[:, 1 : 1 + 3].sum(1)
    labels: list[Any] = [None] * len(points)
    for index in sorted(range(len(points)), key=lambda i: crowd[i]):
        found = None
        for far in DISTANCES:
            for across, up, x, y in AROUND:
                arrow = {"arrowstyle": "-", "color": "#9aa1a8", "linewidth": 0.6, "shrinkB": 3} if far > 10 else None
                found = axis.annotate(
                    texts[index], points[index], (x * far, y * far), textcoords="offset points", ha=across, va=up,
                    arrowprops=arrow, **style,
                )  # fmt: skip
                box = _padded(found, renderer, scale)
                if _inside(box, axis.bbox) and not any(_meet(box, other) for other in taken):
                    break
                found.remove()
                found = None
            if found is not None:
                break
        if found is None:  # no place is free: the usual one
            found = axis.annotate(texts[index], points[index], (6, 0), textcoords="offset points", va="center", **style)
        taken.append(_padded(found, renderer, scale))
        labels[index] = found
    return labels


def _padded(text: Any, renderer: Any, scale: float) -> Bbox:
    text.update_positions(renderer)
    # Of the words alone: an annotation's own extent includes its line.
    return Text.get_window_extent(text, renderer).padded(scale)


def _inside(box: Bbox, frame: Bbox) -> bool:
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


def _meet(one: Bbox, other: Bbox) -> bool:
    return one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1
