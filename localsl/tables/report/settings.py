"""The settings under which numbers were measured, each with a short code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from localsl.tables import results
from localsl.tables.report.markup import Html, grid
from localsl.tables.results import Row


def describe(row: Row) -> str:
    """The setting of a row in words; empty if its number is not measured."""
    if row["runs"] or not row["measured_on"]:
        return results.setting(row)
    return f"{row['measured_on']}, batch size {row['batch_size']}, {row['precision']}"


def codes(rows: Iterable[Row], further: Iterable[str]) -> dict[str, str]:
    """Assign a code to each setting: first to those of the rows, then to further ones, which only runs have."""
    found = filter(None, dict.fromkeys([*map(describe, rows), *further]))
    return {text: f"S{i}" for i, text in enumerate(found, 1)}


def table(settings: dict[str, str], rows: Iterable[Row]) -> str:
    """The table of codes, with the setting in words and the number of measured values."""
    values = Counter(map(describe, rows))
    lines = [
        {"setting": Html(f'<span id="{code}">{code}</span>'), "description": text, "values": values[text]}
        for text, code in settings.items()
    ]
    return (
        grid("Settings", lines) or "<p>Nothing is measured yet, so the columns with our values are empty.</p>"
    )
