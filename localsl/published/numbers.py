"""The numbers that the papers print, one CSV file per table."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "tables"

# The columns that identify a cell of a table, as text; empty where the table does not distinguish.
KEYS = ("part", "dataset", "backbone", "K", "method", "base", "depth", "variant")


@dataclass(frozen=True)
class Number:
    """A number printed in a paper.

    Attributes:
        keys: the values of its cell for `KEYS`.
        metric: what it measures: test_error_pct, top1_acc_pct, gpu_memory_gb, ...
        value, std: the texts as printed, trailing zeros included; `std` is empty if no spread is printed.
        note: doubts about the number, if any.
    """

    keys: tuple[str, ...]
    metric: str
    value: str
    std: str
    note: str


def read(table: str) -> list[Number]:
    """All numbers of a table, such as "man/table1", in the order of the paper."""
    with (FOLDER / f"{table}.csv").open(newline="") as file:
        return [
            Number(tuple(row[key] for key in KEYS), row["metric"], row["value"], row["std"], row["note"])
            for row in csv.DictReader(file)
        ]
