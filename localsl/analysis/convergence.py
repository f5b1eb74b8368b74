"""Loss and accuracy of the output layer over training (AugLocal Figure 6, MAN Figure 4)."""

from __future__ import annotations

import csv
from pathlib import Path

# Columns of metrics.csv: the output module's means over a training epoch, and the network's on the test images.
COLUMNS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


def curve(metrics: Path) -> list[dict[str, float]]:
    """The losses, and the accuracies in per cent, of each epoch in a run's metrics.csv, as far as it has them."""
    with metrics.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [
        {"epoch": int(row["epoch"])} | {name: float(row[name]) for name in COLUMNS if row.get(name)}
        for row in rows
    ]
