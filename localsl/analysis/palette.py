"""The colour and marker of every rule, the same in all figures and in the report.

A family of rules has one colour. The colours are those of Okabe and Ito, two of them slightly darker to be visible on
white; tests/analysis/test_palette.py checks that readers with deuteranopia or protanopia can distinguish them.
Members of a family differ in marker and in shade, which for AugLocal depends on the depth.
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
PARTS = {"lam": "mlaan", "mlm": "mlaan"}  # rules that are parts of another, with its colour
DARKER = {"lam": 0.32, "mlm": 0.55}  # share of black that is mixed with the colour of the family
OTHER = "#7d858c"  # the colour of rules that are not in COLOURS

# The marker shows the auxiliary networks that MAN and MLAAN build on; other rules have "o".
MARKERS = {"dgl": "s", "infopro": "^", "predsim": "D"}
FURTHER = ("o", "v", "P", "X", "<", ">")

DEPTHS = (2, 9)  # depths of AugLocal's auxiliary networks in the papers, from the lightest to the darkest shade


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
    """The rule that a label such as "auglocal d=4" or "bp, data" begins with, or `method` if it begins with none."""
    first = re.split(r"[ ,]", label)[0]
    return first if family(first) in COLOURS else method


def colour(rule: str, depth: int | None = None) -> str:
    """The colour of a rule, in the shade of its depth if it has one, as AugLocal has."""
    base = _mixed(COLOURS.get(family(rule), OTHER), "#000000", DARKER.get(rule, 0))
    if depth is None:
        return base
    low, high = DEPTHS
    place = 2 * (min(max(depth, low), high) - low) / (high - low) - 1
    return _mixed(base, "#000000" if place > 0 else "#ffffff", 0.42 * abs(place))


def styles(series: Iterable[tuple[str, str]]) -> dict[str, Style]:
    """The style of each series of a figure by its label.

    Args:
        series: labels, each with its method, which gives the rule if the label does not.
    """
    order = dict(series)
    alike: dict[Style, list[str]] = {}
    for label, method in order.items():
        depth = re.search(r"\b(?:aux\.depth|d)=(\d+)", label)
        base = next((word for word in re.split(r"[ =,]", label)[1:] if word in MARKERS), "")
        shade = colour(rule_of(label, method), int(depth[1]) if depth else None)
        alike.setdefault(Style(shade, MARKERS.get(base, FURTHER[0])), []).append(label)
    found = dict(pair for first, labels in alike.items() for pair in _apart(first, labels))
    return {label: found[label] for label in order}


def _apart(first: Style, labels: list[str]) -> Iterator[tuple[str, Style]]:
    """Distinct styles for labels that share the style `first`, from a light shade to a dark one."""
    if len(labels) == 1:
        yield labels[0], first
        return
    for index, label in enumerate(labels):
        place = 2 * index / (len(labels) - 1) - 1
        shade = _mixed(first.colour, "#000000" if place > 0 else "#ffffff", 0.45 * abs(place))
        yield label, Style(shade, FURTHER[index % len(FURTHER)])


def readable(shade: str) -> str:
    """The colour for text in this shade on white, darkened to a contrast of 4.5 if necessary."""
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
