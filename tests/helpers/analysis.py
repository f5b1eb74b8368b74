"""Overrides of a tiny network with four layers and of runs of it, and reading of the tables that are written."""

import csv
from pathlib import Path

NETWORK = ["backbone.blocks=[1,1,1]", "backbone.name=tiny", "K=4"]
TINY = [*NETWORK, "schedule=smoke", "dataset.train_subset=60", "dataset.test_subset=40", "batch_size=30"]
TINY += ["seed=0", "threads=1", "device=cpu"]


def rows_of(file):
    """The rows of a CSV file, as dictionaries of text."""
    with Path(file).open(newline="") as lines:
        return list(csv.DictReader(lines))
