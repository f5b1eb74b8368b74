"""Building blocks of HTML: links, paragraphs, and tables that can be sorted and filtered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from localsl.analysis import names, palette

NUMBER = re.compile(r"([+-]?[\d.,]+( ± [\d.]+| MiB)?)?")


class Html(str):
    """A string of HTML, which is not escaped in tables, unlike any other string."""


@dataclass(frozen=True)
class FilterKeys:
    """The values of an element by which the page's filters select it."""

    dataset: str
    backbone: str
    rule: str

    def __str__(self) -> str:
        """The values as data attributes of an HTML element."""
        attributes = {"dataset": self.dataset, "backbone": self.backbone, "rule": self.rule}
        return "".join(f' data-{name}="{escape(value)}"' for name, value in attributes.items())


def text(value: Any) -> str:
    """A value as HTML, escaped unless it is `Html`."""
    return value if isinstance(value, Html) else escape(str(value))


def anchor(name: str) -> str:
    """The id of the HTML element of a table."""
    return escape(name.replace("/", "-"))


def link(target: str, words: str) -> Html:
    """A link to an element of the page; empty without a target."""
    return Html(f'<a href="#{anchor(target)}">{escape(words)}</a>' if target else "")


def paragraphs(css: str, *texts: str) -> str:
    """The nonempty texts, each as a paragraph."""
    return f'<div class="{css}">' + "".join(f"<p>{escape(t)}</p>" for t in texts if t) + "</div>"


def mean(value: Any, deviation: Any) -> str:
    """A mean, with its standard deviation if there is one."""
    return f"{value} ± {deviation}" if value != "" and deviation != "" else str(value)


def rule(label: str) -> Html:
    """A rule's name, preceded by a dot in the colour of its family."""
    family = palette.family(palette.rule_of(label))
    return Html(
        f'<i class="{family if family in palette.COLOURS else "own-rule"}"></i>{escape(names.rule(label))}'
    )


def grid(
    label: str,
    rows: Sequence[dict[str, Any]],
    filter_keys: Sequence[FilterKeys] = (),
    always: Sequence[str] = (),
) -> str:
    """Rows with equal keys as an HTML table, without columns that are empty in every row.

    Args:
        filter_keys: the filter keys of each row; empty if the filters do not apply to the table.
        always: columns that are shown even if they are empty.
    """
    if not rows:
        return ""
    keep = [key for key in rows[0] if key in always or any(row[key] != "" for row in rows)]
    plain = {key: [re.sub("<[^>]*>", "", text(row[key])) for row in rows] for key in keep}
    css = {key: "n" if all(map(NUMBER.fullmatch, texts)) else "" for key, texts in plain.items()}
    css |= {key: "long" for key, texts in plain.items() if max(map(len, texts)) > 40}
    head = "".join(f'<th scope="col" class="{css[key]}">{escape(key)}</th>' for key in keep)
    body = ("".join(f'<td class="{css[key]}">{text(row[key])}</td>' for key in keep) for row in rows)
    attributes = [str(keys) for keys in filter_keys] or [""] * len(rows)
    lines = "".join(
        f"<tr{row_attributes}>{line}</tr>\n" for row_attributes, line in zip(attributes, body, strict=True)
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table></div>\n"
    ).replace(' class=""', "")


def folded(summary: str, content: str, css: str = "") -> str:
    """Content that is folded under `summary`, which is HTML."""
    return f'<details class="{css}"><summary>{summary}</summary>{content}</details>\n'.replace(' class=""', "")
