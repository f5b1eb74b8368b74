"""The memory that a rule saves relative to backpropagation of the same network, the papers' main claim."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

METRIC = "gpu_memory_gb"
NETWORK = ("part", "dataset", "backbone")
COLUMNS = {"paper_mean": "paper_reduction_pct", "ours_mean": "ours_reduction_pct"}


def add(made: list[Row]) -> list[Row]:
    """Add to each row of memory its reduction in per cent, for the paper's values and for ours."""
    of_bp: dict[tuple, list[Row]] = {}
    for row in made:
        if _is_memory(row) and row["method"] == "bp":
            of_bp.setdefault(_network(row), []).append(row)
    return [_reduced(row, of_bp.get(_network(row), [])) if _is_memory(row) else row for row in made]


def _is_memory(row: Row) -> bool:
    return row["metric"] == METRIC


def _network(row: Row) -> tuple:
    return tuple(row[key] for key in NETWORK)


def _reduced(row: Row, of_bp: list[Row]) -> Row:
    if not of_bp or row["method"] == "bp":
        return row
    # Peaks of a GPU, traced live bytes, and values of different batch sizes cannot be compared with each other.
    comparable = [bp for bp in of_bp if bp["measured_on"] == row["measured_on"]]
    references = {"paper_mean": of_bp[:1], "ours_mean": comparable[:1]}
    values = {
        column: f"{100 * (1 - float(row[value]) / float(bp[value])):.1f}"
        for value, column in COLUMNS.items()
        for bp in references[value]
        if row[value] and bp[value]
    }
    return row | values
