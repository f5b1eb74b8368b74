"""The numbers that the papers print, one CSV a table."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "tables"

# What tells the cells of a table apart; texts, empty where a table does not distinguish.
KEYS = ("part", "dataset", "backbone", "K", "method", "base", "depth", "variant")


@dataclass(frozen=True)
class Number:
    """A printed number.

    Attributes:
        keys: of its cell, in the order of KEYS.
        metric: test_error_pct, top1_acc_pct, gpu_memory_gb, ...
        value, std: as printed, trailing zeros and all; `std` is empty where no spread is printed.
        note: what is doubtful about it.
    """

    keys: tuple[str, ...]
    metric: str
    value: str
    std: str
    note: str


def read(table: str) -> list[Number]:
    """All numbers of a table such as "man/table1", in the order of the paper."""
    with (FOLDER / f"{table}.csv").open(newline="") as file:
        return [
            Number(tuple(row[key] for key in KEYS), row["metric"], row["value"], row["std"], row["note"])
            for row in csv.DictReader(file)
        ]
