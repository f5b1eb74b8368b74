"""The main results of an analysis as lines for the terminal, from the rows of its CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from localsl.runs import display

Row = dict[str, str]


def of(kind: str, rows: Sequence[Row]) -> list[str]:
    """The lines to print; none for kinds whose result is a figure."""
    return SHOWN[kind](rows) if kind in SHOWN else []


def _by_run(rows: Sequence[Row]) -> dict[str, list[Row]]:
    runs: dict[str, list[Row]] = {}
    for row in rows:
        runs.setdefault(f"{row['label']} ({row['run']})", []).append(row)
    return runs


def _similarity(rows: Sequence[Row]) -> list[str]:
    found = []
    for label, own in _by_run(rows).items():
        layers = [row for row in own if row["layer"] != "mean"]
        (mean,) = (row["cka"] for row in own if row["layer"] == "mean")
        lowest = min(layers, key=lambda row: float(row["cka"]))
        last = {"mean CKA with bp": f"{float(mean):.3f}", "last layer": f"{float(layers[-1]['cka']):.3f}"}
        found.append({"run": label} | last | {"lowest": f"{float(lowest['cka']):.3f} after {lowest['name']}"})
    return [display.table(found)]


def _separability(rows: Sequence[Row]) -> list[str]:
    found = []
    for label, own in _by_run(rows).items():
        accuracy = [float(row["probe_test_accuracy"]) for row in own]
        best = max(range(len(own)), key=accuracy.__getitem__)
        ends = {"first layer %": f"{accuracy[0]:.2f}", "last layer %": f"{accuracy[-1]:.2f}"}
        found.append({"run": label} | ends | {"best %": f"{accuracy[best]:.2f} after {own[best]['name']}"})
    return [display.table(found)]


SHOWN: dict[str, Callable[[Sequence[Row]], list[str]]] = {"cka": _similarity, "probes": _separability}
