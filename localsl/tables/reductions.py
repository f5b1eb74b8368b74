"""How much less memory a rule needs than backpropagation of the same network: what the papers are about."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

METRIC = "gpu_memory_gb"
SAME = ("part", "dataset", "backbone")
COLUMNS = {"paper_mean": "paper_reduction_pct", "ours_mean": "ours_reduction_pct"}


def add(made: list[Row]) -> list[Row]:
    """The rows of a table, those of memory with the reduction that the paper's and our values make."""
    of_bp: dict[tuple, list[Row]] = {}
    for row in made:
        if _is_memory(row) and row["method"] == "bp":
            of_bp.setdefault(_same(row), []).append(row)
    return [_reduced(row, of_bp.get(_same(row), [])) if _is_memory(row) else row for row in made]


def _is_memory(row: Row) -> bool:
    return row["metric"] == METRIC


def _same(row: Row) -> tuple:
    return tuple(row[key] for key in SAME)


def _reduced(row: Row, of_bp: list[Row]) -> Row:
    if not of_bp or row["method"] == "bp":
        return row
    # A GPU's peak and live bytes, or those of two sizes of batch, are not compared with each other.
    alike = [bp for bp in of_bp if bp["measured_on"] == row["measured_on"]]
    beside = {"paper_mean": of_bp[:1], "ours_mean": alike[:1]}
    values = {
        column: f"{100 * (1 - float(row[value]) / float(bp[value])):.1f}"
        for value, column in COLUMNS.items()
        for bp in beside[value]
        if row[value] and bp[value]
    }
    return row | values
