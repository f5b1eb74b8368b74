"""The colour and marker of every rule, the same in all figures and in the report.

A family of rules has one colour. The colours are those of Okabe and Ito, two of them a little darker, so that they
show on white; tests/test_palette.py checks that they stay apart for readers with deuteranopia and protanopia. Members
of a family differ in shade, AugLocal's by its depth, and in marker.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib import colors

REFERENCE = "bp"

COLOURS = {
    REFERENCE: "#1c2024",
    "predsim": "#e69f00",
    "dgl": "#0067a8",
    "infopro": "#009e73",
    "auglocal": "#d55e00",
    "man": "#c46c9e",
    "mlaan": "#4fb0ea",
}
PARTS = {"lam": "mlaan", "mlm": "mlaan"}  # of which a rule is made
DARKER = {"lam": 0.32, "mlm": 0.55}  # than the colour of the family, as a share of black
OTHER = "#7d858c"  # rules of one's own

# The marker tells on which auxiliary network a rule builds; "o" on its own.
MARKERS = {"dgl": "s", "infopro": "^", "predsim": "D"}
FURTHER = ("o", "v", "P", "X", "<", ">")

DEPTHS = (2, 9)  # of AugLocal's auxiliary networks in the papers, lightest to darkest


@dataclass(frozen=True)
class Style:
    """How a series is drawn."""

    colour: str
    marker: str


def family(rule: str) -> str:
    """The family of a rule: man for man_released, mlaan for lam."""
    stem = rule.split("_")[0]
    return PARTS.get(stem, stem)


def rule_of(label: str, method: str = "") -> str:
    """The rule of a label such as "auglocal d=4" or "bp, data"; else `method`, as for a variant's label."""
    first = re.split(r"[ ,]", label)[0]
    return first if family(first) in COLOURS else method


def colour(rule: str, depth: int | None = None) -> str:
    """The colour of a rule, in the shade of a depth where there is one: AugLocal's."""
    base = _mixed(COLOURS.get(family(rule), OTHER), "#000000", DARKER.get(rule, 0))
    if depth is None:
        return base
    low, high = DEPTHS
    place = 2 * (min(max(depth, low), high) - low) / (high - low) - 1
    return _mixed(base, "#000000" if place > 0 else "#ffffff", 0.42 * abs(place))


def styles(series: Iterable[tuple[str, str]]) -> dict[str, Style]:
    """A style for each series of a figure by its label.

    Args:
        series: labels, each with the method that says the rule where the label does not.
    """
    order = dict(series)
    alike: dict[Style, list[str]] = {}
    for label, method in order.items():
        depth = re.search(r"\b(?:aux\.depth|d)=(\d+)", label)
        base = next((word for word in re.split(r"[ =,]", label)[1:] if word in MARKERS), "")
        shade = colour(rule_of(label, method), int(depth[1]) if depth else None)
        alike.setdefault(Style(shade, MARKERS.get(base, FURTHER[0])), []).append(label)
    found = dict(one for first, labels in alike.items() for one in _apart(first, labels))
    return {label: found[label] for label in order}


def _apart(first: Style, labels: list[str]) -> Iterator[tuple[str, Style]]:
    """The style of each of these labels, whose rule is the same: from a light shade to a dark one."""
    if len(labels) == 1:
        yield labels[0], first
        return
    for index, label in enumerate(labels):
        place = 2 * index / (len(labels) - 1) - 1
        shade = _mixed(first.colour, "#000000" if place > 0 else "#ffffff", 0.45 * abs(place))
        yield label, Style(shade, FURTHER[index % len(FURTHER)])


def readable(shade: str) -> str:
    """The colour in which text of this shade can be read on white: as dark as a contrast of 4.5 takes."""
    hue, light, saturation = colorsys.rgb_to_hls(*colors.to_rgb(shade))
    while 1.05 / (luminance(text := colors.to_hex(colorsys.hls_to_rgb(hue, light, saturation))) + 0.05) < 4.5:
        light *= 0.95
    return text


def luminance(shade: str) -> float:
    """The relative luminance of a colour, from 0 to 1 (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colors.to_rgb(shade)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _mixed(one: str, other: str, share: float) -> str:
    mixed = (1 - share) * np.array(colors.to_rgb(one)) + share * np.array(colors.to_rgb(other))
    return colors.to_hex(tuple(mixed.tolist()))
