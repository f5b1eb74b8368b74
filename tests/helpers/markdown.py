"""What the pages of the documentation hold: commands, Python, links and headings."""

import re
from functools import cache
from itertools import pairwise

from markdown_it import MarkdownIt

from tests.conftest import ROOT

COMMAND = re.compile(
    r"(?:[A-Z_]+=\S+ )?(?:python3? (?:run\.py|-m localsl|examples/)|localsl [a-z-]|make\b|torchrun )"
)


def pages(*patterns):
    """The pages of these patterns, below the repository."""
    return [file for pattern in patterns for file in sorted(ROOT.glob(pattern))]


@cache
def _tokens(page):
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def _inline(page):
    return [child for token in _tokens(page) for child in token.children or []]


def _blocks(page):
    """The text of blocks of code in no language or in a shell's, lines that end with a backslash joined."""
    blocks = [t.content for t in _tokens(page) if t.type == "code_block" or (t.type == "fence" and not t.info)]
    return [re.sub(r" *\\\n\s*", " ", block) for block in blocks]


def commands(page):
    """Every command that a reader can type: in blocks of code, and between backquotes."""
    lines = [line.removeprefix("$ ") for block in _blocks(page) for line in block.splitlines()]
    lines += [child.content for child in _inline(page) if child.type == "code_inline" and " " in child.content]
    return [line.strip() for line in lines if COMMAND.match(line)]


def shown(page):
    """What commands after a `$` print, as their block shows it."""
    found = {}
    for block in _blocks(page):
        if block.startswith("$ "):
            command, *printed = block.removeprefix("$ ").rstrip().splitlines()
            found[command] = printed
    return found


def python(page):
    """The blocks of Python."""
    return [token.content for token in _tokens(page) if token.type == "fence" and token.info == "python"]


def links(page):
    """Where links and pictures point to."""
    found = [child.attrs.get("href") or child.attrs.get("src") for child in _inline(page)]
    return [link for link in found if link]


def headings(page):
    """The anchors of a page's headings, as GitHub makes them."""
    tokens = _tokens(page)
    texts = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts]
