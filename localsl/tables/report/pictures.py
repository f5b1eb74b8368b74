"""Figures embedded in the page as data URLs, so that the page needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from localsl.tables import sweep_files
from localsl.tables.sweep_files import Table

# The figures shown first: the accuracy of all rules, and error against memory.
FIRST = ("ours/fig4", "ours/fig5")


def inline(file: Path, title: str, caption: str = "") -> str:
    """The figure in a PNG file as HTML; empty if the file does not exist."""
    if not file.exists():
        return ""
    data = file.read_bytes()
    # The header of a PNG file contains its size.
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    size = f'width="{width // 2}" height="{height // 2}"'
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="picture"><img src="{source}" {size} alt="{escape(title)}">{below}</figure>\n'


def of_table(results_dir: Path, table: Table) -> str:
    """The figure of a table, if the paper draws it."""
    return inline((results_dir / table.name).with_suffix(".png"), table.title) if table.plot else ""


def of_paper(results_dir: Path, paper: str) -> Iterator[str]:
    """The existing figures of a paper, or those of `ours`."""
    for name in sorted(sweep_files.figures(), key=lambda name: name not in FIRST):
        file = (results_dir / name).with_suffix(".png")
        if name.startswith(f"{paper}/") and file.exists():
            number = file.stem.removeprefix("fig")
            yield inline(file, sweep_files.read(name).title, f"Figure {number}. Data: {name}.csv")


def gallery(pictures: Sequence[str]) -> str:
    """Several figures side by side."""
    return f'<div class="gallery">{"".join(pictures)}</div>' if pictures else ""
