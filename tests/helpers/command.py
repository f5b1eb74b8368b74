"""Running the command line within the test's process, and reading the records that it writes."""

import json
import sys
from pathlib import Path

import run
from tests.conftest import ROOT

SMOKE = ["schedule=smoke", "dataset.train_subset=40", "dataset.test_subset=20", "batch_size=20"]
SMALL = [*SMOKE, "backbone=resnet20", "K=2"]


def typed(monkeypatch, *arguments):
    """Run `python run.py` with these arguments in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py"), *arguments])
    try:
        run.main()
    except SystemExit as end:
        return end.code
    return 0


def records(folder="outputs"):
    """The records of all runs in a folder, in the order of their paths."""
    return [json.loads(file.read_text()) for file in sorted(Path(folder).rglob("record.json"))]
