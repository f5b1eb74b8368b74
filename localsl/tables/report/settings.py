"""The settings that numbers were measured under, each with a short code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from localsl.tables import render
from localsl.tables.render import Row
from localsl.tables.report.markup import Html, grid


def of(row: Row) -> str:
    """How a row's number was measured, in words; empty where there is none."""
    if row["runs"] or not row["measured_on"]:
        return render.setting(row)
    return f"{row['measured_on']}, batch {row['batch_size']}, {row['precision']}"


def codes(rows: Iterable[Row], further: Iterable[str]) -> dict[str, str]:
    """A code for each setting: those of the rows first, then further ones that only runs have."""
    told = filter(None, dict.fromkeys([*map(of, rows), *further]))
    return {text: f"S{i}" for i, text in enumerate(told, 1)}


def table(settings: dict[str, str], rows: Iterable[Row]) -> str:
    """The codes in words, and how many values each has."""
    values = Counter(map(of, rows))
    lines = [
        {"setting": Html(f'<span id="{code}">{code}</span>'), "in words": text, "values": values[text]}
        for text, code in settings.items()
    ]
    return grid("Settings", lines) or "<p>Nothing is measured yet: the columns of our values are empty.</p>"
