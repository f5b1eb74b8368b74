"""Constants of the papers and of their released code that depend on the network: cuts, loss weights, leap layers.

They are kept in the CSV files of this folder, in which each row names its source.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

Weights = tuple[float, float, float, float]


def cuts(backbone: str, dataset: str, balance: str, K: int) -> list[str] | None:
    """The name of the last layer of every module but the last; None if no cuts are published.

    Args:
        balance: "depth", or "memory" for InfoPro's modules of equal memory, which depend on the data set.
    """
    for row in _rows("cuts"):
        key = (row["backbone"], row["balance"], int(row["K"]))
        if key == (backbone, balance, K) and row["dataset"] in ("", dataset):
            return row["ends"].split()
    return None


def balanced_cuts() -> list[str]:
    """The networks, data sets and K for which memory-balanced cuts are published, as phrases for a message."""
    published: dict[str, list[str]] = {}
    for row in _rows("cuts"):
        if row["balance"] == "memory":
            published.setdefault(f"{row['backbone']} on {row['dataset']}", []).append(row["K"])
    return [f"{network} with K={'|'.join(K)}" for network, K in published.items()]


def infopro_weights(
    form: str, *, scale: str, backbone: str = "", dataset: str = "", balance: str = "", K: int = 0
) -> Weights:
    """InfoPro's loss weights: (reconstruction first, cross-entropy first, reconstruction last, cross-entropy last).

    Args:
        form: "published" for InfoPro's own, or AugLocal's where InfoPro has none; "released" for those in the code of
            MAN and MLAAN.
        scale: "cifar" or "imagenet", for networks that have no weights of their own.
    """
    key = {"backbone": backbone, "dataset": dataset, "balance": balance, "K": str(K)}
    fitting = [
        row
        for row in _rows("infopro_weights")
        if row["form"] == form and all(row[name] in ("", value) for name, value in key.items())
    ]
    # A network's own weights take precedence over the scale; of several rows the most specific one holds.
    candidates = [row for row in fitting if row["backbone"]] or [
        row for row in fitting if row["scale"] == scale
    ]
    row = max(candidates, key=lambda row: sum(row[name] != "" for name in key))
    first, last = ("reconstruction_first", "ce_first"), ("reconstruction_last", "ce_last")
    return tuple(_number(row[name]) for name in (*first, *last))  # pyright: ignore[reportReturnType]


def leap_layers(backbone: str, modules: int, end: str) -> list[str] | None:
    """The layers of the leap bridge of a module that ends with layer `end`; None if no table is published."""
    rows = [row for row in _rows("leap_layers") if row["backbone"] == backbone and row["end"] == end]
    fitting = [row for row in rows if row["modules"] in ("", str(modules))]
    return max(fitting, key=lambda row: row["modules"])["layers"].split() if fitting else None


def _number(text: str) -> float:
    """Parse a number; whole ones become int, because a run's identity contains weights as they are written."""
    return int(text) if text.isdecimal() else float(text)


@cache
def _rows(name: str) -> list[dict[str, str]]:
    with (Path(__file__).parent / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))
