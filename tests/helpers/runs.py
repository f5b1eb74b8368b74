"""Small runs, the files that they leave behind, and ways to stop them."""

import os
import signal

import pytest
import torch

from localsl.runs import experiment, stored
from localsl.runs.identity import run_directory
from tests.conftest import ROOT
from tests.helpers.analysis import rows_of

TINY = ["schedule=smoke", "schedule.epochs=3", "schedule.warmup_epochs=1", "K=4", "backbone=resnet20"]
TINY += ["dataset.train_subset=50", "dataset.test_subset=20", "batch_size=20", "device=cpu"]
METHODS = sorted(file.stem for file in (ROOT / "conf" / "method").glob("*.yaml"))


def columns(file):
    """The columns of a CSV file by their names, as lists of text."""
    rows = rows_of(file)
    return {key: [row[key] for row in rows] for key in rows[0]}


def tiny_of(method):
    """Overrides of a small run of the rule."""
    more = ["aux.depth=3"] if method == "auglocal" else ["method.cascade=2"] if method.startswith("ml") else []
    return [f"method={method}", *TINY, *more]


def left_by(cfg):
    """A finished run's checkpoint, metrics and record, without times, its folder's name and the code's commit."""
    folder = run_directory(cfg)
    (checkpoint,) = (folder / "checkpoints").glob("*.pt")
    state = torch.load(checkpoint, weights_only=True)
    metrics = columns(folder / "metrics.csv")
    record = stored.read_record(cfg)
    assert record is not None
    for timed in (state, record):
        del timed["seconds"]
    for row in [metrics, *state["rows"]]:
        del row["images_per_s"]
    del state["config"]  # names the folder
    del record["commit"]
    return state, metrics, record


def assert_same(one, other):
    """Assert that two nestings of dicts, lists and tensors are equal bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def run_until_sigterm(cfg, owner, name, call, status="interrupted"):
    """Run, and send SIGTERM at the `call`-th call of the function `name` of `owner`.

    The run must exit with 143 and leave a record of the given status.
    """
    real, calls = getattr(owner, name), []

    def terminating(*arguments):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, terminating)
        with pytest.raises(SystemExit) as end:
            experiment.run(cfg)
    assert end.value.code == 143
    record = stored.read_record(cfg)
    assert record is not None
    assert record["status"] == status


def children(pid):
    """The ids of the processes that a process started."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]
