"""Constants of the papers and their released code that depend on the network: cuts, loss weights, leap layers.

Each row of the CSV files beside this one names its source.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

Weights = tuple[float, float, float, float]


def cuts(backbone: str, dataset: str, balance: str, K: int) -> list[str] | None:
    """Last layer of every module but the last, by name; None where no cuts are published.

    Args:
        balance: "depth", or "memory" for InfoPro's modules of equal memory, which depend on the data set.
    """
    for row in _rows("cuts"):
        key = (row["backbone"], row["balance"], int(row["K"]))
        if key == (backbone, balance, K) and row["dataset"] in ("", dataset):
            return row["ends"].split()
    return None


def balanced_cuts() -> list[str]:
    """For which networks, data sets and K cuts of equal memory are published, in words."""
    known: dict[str, list[str]] = {}
    for row in _rows("cuts"):
        if row["balance"] == "memory":
            known.setdefault(f"{row['backbone']} on {row['dataset']}", []).append(row["K"])
    return [f"{of} with K={'|'.join(K)}" for of, K in known.items()]


def infopro_weights(
    form: str, *, scale: str, backbone: str = "", dataset: str = "", balance: str = "", K: int = 0
) -> Weights:
    """InfoPro's loss weights: (reconstruction first, cross-entropy first, reconstruction last, cross-entropy last).

    Args:
        form: "published" for InfoPro's own, and AugLocal's where it has none; "released" for the code of MAN and
            MLAAN.
        scale: "cifar" or "imagenet": decides for networks without weights of their own.
    """
    asked = {"backbone": backbone, "dataset": dataset, "balance": balance, "K": str(K)}
    fitting = [
        row
        for row in _rows("infopro_weights")
        if row["form"] == form and all(row[name] in ("", value) for name, value in asked.items())
    ]
    # The most specific row; a network's own weights hold whatever scale was asked for.
    own = [row for row in fitting if row["backbone"]] or [row for row in fitting if row["scale"] == scale]
    row = max(own, key=lambda row: sum(row[name] != "" for name in asked))
    first, last = ("reconstruction_first", "ce_first"), ("reconstruction_last", "ce_last")
    return tuple(_number(row[name]) for name in (*first, *last))  # pyright: ignore[reportReturnType]


def leap_layers(backbone: str, modules: int, end: str) -> list[str] | None:
    """The layers of the leap bridge of a module that ends in layer `end`; None where no table is published."""
    rows = [row for row in _rows("leap_layers") if row["backbone"] == backbone and row["end"] == end]
    fitting = [row for row in rows if row["modules"] in ("", str(modules))]
    return max(fitting, key=lambda row: row["modules"])["layers"].split() if fitting else None


def _number(text: str) -> float:
    """Whole numbers stay whole: a run's identity holds weights as they are written."""
    return int(text) if text.isdecimal() else float(text)


@cache
def _rows(name: str) -> list[dict[str, str]]:
    with (Path(__file__).parent / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))
