"""Pieces of HTML: links, short paragraphs, and tables that the reader can sort and filter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from localsl.analysis import names, palette

NUMBER = re.compile(r"([+-]?[\d.,]+( ± [\d.]+| MiB)?)?")


class Html(str):
    """Markup; every other text is escaped on its way into a table."""


@dataclass(frozen=True)
class Of:
    """What an element is of: what the page's filters go by."""

    dataset: str
    backbone: str
    rule: str

    def __str__(self) -> str:
        """As attributes of the element."""
        told = {"dataset": self.dataset, "backbone": self.backbone, "rule": self.rule}
        return "".join(f' data-{name}="{escape(value)}"' for name, value in told.items())


def text(value: Any) -> str:
    """A value as markup."""
    return value if isinstance(value, Html) else escape(str(value))


def anchor(name: str) -> str:
    """The id of a table's place on the page."""
    return escape(name.replace("/", "-"))


def link(target: str, words: str) -> Html:
    """A link to a place on the page; nothing if there is no target."""
    return Html(f'<a href="#{anchor(target)}">{escape(words)}</a>' if target else "")


def paragraphs(css: str, *texts: str) -> str:
    """These texts, but the empty ones, each a paragraph."""
    return f'<div class="{css}">' + "".join(f"<p>{escape(t)}</p>" for t in texts if t) + "</div>"


def mean(value: Any, deviation: Any) -> str:
    """A mean with its standard deviation, if it has one."""
    return f"{value} ± {deviation}" if value != "" and deviation != "" else str(value)


def rule(label: str) -> Html:
    """A rule's name after a dot in the colour of its family."""
    family = palette.family(palette.rule_of(label))
    return Html(
        f'<i class="{family if family in palette.COLOURS else "own-rule"}"></i>{escape(names.rule(label))}'
    )


def grid(label: str, rows: Sequence[dict[str, Any]], of: Sequence[Of] = (), always: Sequence[str] = ()) -> str:
    """Rows of equal keys as a table, without the columns that are empty in all.

    Args:
        of: what each row is of, where the filters concern the table.
        always: columns that stay, empty or not.
    """
    if not rows:
        return ""
    keep = [key for key in rows[0] if key in always or any(row[key] != "" for row in rows)]
    plain = {key: [re.sub("<[^>]*>", "", text(row[key])) for row in rows] for key in keep}
    css = {key: "n" if all(map(NUMBER.fullmatch, texts)) else "" for key, texts in plain.items()}
    css |= {key: "long" for key, texts in plain.items() if max(map(len, texts)) > 40}
    head = "".join(f'<th scope="col" class="{css[key]}">{escape(key)}</th>' for key in keep)
    body = ("".join(f'<td class="{css[key]}">{text(row[key])}</td>' for key in keep) for row in rows)
    attributes = [str(one) for one in of] or [""] * len(rows)
    lines = "".join(f"<tr{more}>{line}</tr>\n" for more, line in zip(attributes, body, strict=True))
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table></div>\n"
    ).replace(' class=""', "")


def folded(summary: str, content: str, css: str = "") -> str:
    """Content that the reader unfolds; `summary` is markup."""
    return f'<details class="{css}"><summary>{summary}</summary>{content}</details>\n'.replace(' class=""', "")
