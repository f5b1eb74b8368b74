"""Figures inside the page: the bytes of their files, so that the page needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from localsl.tables import sweeps
from localsl.tables.sweeps import Table

# What answers first which rule is best, and at which price.
FIRST = ("ours/fig4", "ours/fig5")


def inline(file: Path, title: str, caption: str = "") -> str:
    """The figure in a file; nothing where there is no such file."""
    if not file.exists():
        return ""
    data = file.read_bytes()
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))  # of a PNG's header
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    size = f'width="{width // 2}" height="{height // 2}"'
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="picture"><img src="{source}" {size} alt="{escape(title)}">{below}</figure>\n'


def of_table(results_dir: Path, table: Table) -> str:
    """The figure of a table that the paper draws."""
    return inline((results_dir / table.name).with_suffix(".png"), table.title) if table.plot else ""


def of_paper(results_dir: Path, paper: str) -> Iterator[str]:
    """The figures of a paper that are there, or our own."""
    for name in sorted(sweeps.figures(), key=lambda name: name not in FIRST):
        file = (results_dir / name).with_suffix(".png")
        if name.startswith(f"{paper}/") and file.exists():
            number = file.stem.removeprefix("fig")
            yield inline(file, sweeps.read(name).title, f"Figure {number}. Its numbers: {name}.csv")


def gallery(pictures: Sequence[str]) -> str:
    """Several figures beside each other, as many as fit."""
    return f'<div class="gallery">{"".join(pictures)}</div>' if pictures else ""
