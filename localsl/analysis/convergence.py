"""Loss and accuracy of the output layer over training (AugLocal Figure 6, MAN Figure 4)."""

from __future__ import annotations

import csv
from pathlib import Path

# Of metrics.csv: the output module's over the epoch in training mode, and the network's on the test images.
COLUMNS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


def curve(metrics: Path) -> list[dict[str, float]]:
    """The epochs of a run's metrics.csv: losses, and accuracies in per cent, those that it has."""
    with metrics.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [
        {"epoch": int(row["epoch"])} | {name: float(row[name]) for name in COLUMNS if row.get(name)}
        for row in rows
    ]
