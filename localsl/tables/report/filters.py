"""The form with the page's filters: the data sets, backbones and rules that occur on the page."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from localsl.analysis import names, palette
from localsl.tables.report.markup import FilterKeys

LABELS = {"dataset": "data set", "backbone": "backbone", "rule": "rule"}


def form(shown: Iterable[FilterKeys]) -> str:
    """The form, with a drop-down list for each of LABELS."""
    keys = list(dict.fromkeys(shown))
    order = list(palette.COLOURS)
    rules = sorted({key.rule for key in keys}, key=lambda rule: (_place(palette.family(rule), order), rule))
    choices = {"dataset": {key.dataset: names.dataset(key.dataset) for key in keys}}
    choices["backbone"] = {name: names.backbone(name) for name in sorted({key.backbone for key in keys})}
    choices["rule"] = {rule: names.rule(rule) for rule in rules}
    return "".join(_choice(name, choices[name]) for name in LABELS)


def _place(family: str, order: list[str]) -> int:
    return order.index(family) if family in order else len(order)


def _choice(name: str, values: dict[str, str]) -> str:
    options = "".join(
        f'<option value="{escape(v)}">{escape(words)}</option>' for v, words in values.items() if v
    )
    return f'<label>{LABELS[name]}<select name="{name}"><option value="">all</option>{options}</select></label>'
