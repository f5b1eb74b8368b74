"""How much less memory a rule needs than backpropagation of the same network: what the papers are about."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

METRIC = "gpu_memory_gb"
SAME = ("part", "dataset", "backbone")
COLUMNS = {"paper_mean": "paper_reduction_pct", "ours_mean": "ours_reduction_pct"}


def add(made: list[Row]) -> list[Row]:
    """The rows of a table, those of memory with the reduction that the paper's and our values make."""
    of_bp = {tuple(row[key] for key in SAME): row for row in made if _is_memory(row) and row["method"] == "bp"}
    return [_reduced(row, of_bp) if _is_memory(row) else row for row in made]


def _is_memory(row: Row) -> bool:
    return row["metric"] == METRIC


def _reduced(row: Row, of_bp: dict[tuple, Row]) -> Row:
    bp = of_bp.get(tuple(row[key] for key in SAME))
    if bp is None or row is bp:
        return row
    # A GPU's peak and live bytes are not compared with each other.
    alike = row["measured_on"] == bp["measured_on"]
    values = {
        column: f"{100 * (1 - float(row[value]) / float(bp[value])):.1f}"
        for value, column in COLUMNS.items()
        if row[value] and bp[value] and (alike or value == "paper_mean")
    }
    return row | values
