"""The choices of the page's filters: data sets, backbones and rules that something on the page is of."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from localsl.analysis import names, palette
from localsl.tables.report.markup import Of

LABELS = {"dataset": "data set", "backbone": "backbone", "rule": "rule"}


def form(shown: Iterable[Of]) -> str:
    """A list to choose from for each of LABELS."""
    of = list(dict.fromkeys(shown))
    order = list(palette.COLOURS)
    rules = sorted({one.rule for one in of}, key=lambda rule: (_place(palette.family(rule), order), rule))
    choices = {"dataset": {one.dataset: names.dataset(one.dataset) for one in of}}
    choices["backbone"] = {name: names.backbone(name) for name in sorted({one.backbone for one in of})}
    choices["rule"] = {rule: names.rule(rule) for rule in rules}
    return "".join(_choice(name, choices[name]) for name in LABELS)


def _place(family: str, order: list[str]) -> int:
    return order.index(family) if family in order else len(order)


def _choice(name: str, values: dict[str, str]) -> str:
    options = "".join(
        f'<option value="{escape(v)}">{escape(words)}</option>' for v, words in values.items() if v
    )
    return f'<label>{LABELS[name]}<select name="{name}"><option value="">all</option>{options}</select></label>'
