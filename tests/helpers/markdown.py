"""Parsing of the documentation's pages: their commands, Python blocks, links and headings."""

import re
from functools import cache
from itertools import pairwise

from markdown_it import MarkdownIt

from tests.conftest import ROOT

COMMAND = re.compile(
    r"(?:[A-Z_]+=\S+ )?(?:python3? (?:run\.py|-m localsl|examples/)|localsl [a-z-]|make\b|torchrun )"
)


def pages(*patterns):
    """The files of the repository that match these patterns."""
    return [file for pattern in patterns for file in sorted(ROOT.glob(pattern))]


@cache
def _tokens(page):
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def _inline(page):
    return [child for token in _tokens(page) for child in token.children or []]


def _blocks(page):
    """The code blocks without a language, with lines joined that end with a backslash."""
    blocks = [t.content for t in _tokens(page) if t.type == "code_block" or (t.type == "fence" and not t.info)]
    return [re.sub(r" *\\\n\s*", " ", block) for block in blocks]


def commands(page):
    """Every command that a reader can type, in code blocks and in inline code."""
    lines = [line.removeprefix("$ ") for block in _blocks(page) for line in block.splitlines()]
    lines += [child.content for child in _inline(page) if child.type == "code_inline" and " " in child.content]
    return [line.strip() for line in lines if COMMAND.match(line)]


def shown(page):
    """The output that the page shows for each command after a `$`, as lines."""
    found = {}
    for block in _blocks(page):
        if block.startswith("$ "):
            command, *printed = block.removeprefix("$ ").rstrip().splitlines()
            found[command] = printed
    return found


def python(page):
    """The Python code blocks."""
    return [token.content for token in _tokens(page) if token.type == "fence" and token.info == "python"]


def links(page):
    """The targets of links and pictures."""
    found = [child.attrs.get("href") or child.attrs.get("src") for child in _inline(page)]
    return [link for link in found if link]


def headings(page):
    """The anchors of a page's headings, as GitHub forms them."""
    tokens = _tokens(page)
    texts = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts]
