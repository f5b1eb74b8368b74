"""Faults outside the code end with one clear message and the right exit code, and nothing is lost."""

import json
import os
import pickle

import pytest
import torch

from localsl.config import compose
from localsl.data.batches import TrainBatches
from localsl.runs import classification, experiment
from localsl.runs.checkpoint import Checkpoints, _digest
from localsl.runs.identity import run_directory
from tests.helpers.command import records, typed
from tests.helpers.runs import TINY, left_by, run_until_sigterm


def raise_at_call(monkeypatch, owner, name, call, error):
    """Make the `call`-th call of the function `name` of `owner` raise an error."""
    real, calls = getattr(owner, name), []

    def raising(*arguments, **more):
        calls.append(1)
        if len(calls) == call:
            raise error
        return real(*arguments, **more)

    monkeypatch.setattr(owner, name, raising)


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_resumes(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        raise_at_call(patch, os, "fsync", 3, OSError(28, "No space left on device"))
        assert typed(patch, *TINY) == 1
    errors = capsys.readouterr().err
    assert "cannot be written (No space left on device); make room, and the same command resumes" in errors
    assert "Traceback" not in errors
    assert [r["status"] for r in records()] == ["failed"]
    assert typed(monkeypatch, *TINY) == 0
    assert "resuming after 1 of 3 epochs" in capsys.readouterr().out
    straight = compose([*TINY, "output_dir=straight"])
    experiment.run(straight)
    assert left_by(compose(TINY))[1] == left_by(straight)[1]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(28, "No space left on device", "/elsewhere/1"),
            "/elsewhere/1: No space left on device; the same",
        ),
        (OSError(12, "Cannot allocate memory"), "Cannot allocate memory; the same command resumes"),
        (BrokenPipeError(32, "Broken pipe"), "Broken pipe; the same command resumes"),
        (OSError(5, "Input/output error"), "cannot be written (Input/output error); make room"),
    ],
)
def test_only_failed_writes_are_attributed_to_the_runs_folder(error, words, monkeypatch, capsys):
    raise_at_call(monkeypatch, TrainBatches, "augmented", 2, error)
    assert typed(monkeypatch, *TINY) == 1
    errors = capsys.readouterr().err
    assert words in errors
    assert "Traceback" not in errors


def test_a_record_that_cannot_be_written_does_not_hide_the_runs_error(monkeypatch, capsys):
    raise_at_call(monkeypatch, TrainBatches, "augmented", 2, RuntimeError("the actual fault"))
    raise_at_call(monkeypatch, experiment.tracking.Tracker, "close", 1, OSError(28, "No space left on device"))
    with pytest.raises(RuntimeError, match="the actual fault"):
        experiment.run(compose(TINY))
    assert "the record cannot be written (No space left on device)" in capsys.readouterr().err


def test_out_of_memory_names_the_fields_that_lower_it(monkeypatch, capsys):
    raise_at_call(monkeypatch, TrainBatches, "augmented", 2, torch.OutOfMemoryError("CUDA out of memory"))
    assert typed(monkeypatch, *TINY) == 1
    errors = capsys.readouterr().err
    assert "GiB, without data set and workspaces): lower batch_size=20, or type memory=lean" in errors
    assert "Traceback" not in errors


def test_another_number_of_epochs_is_another_run_and_says_why(capsys):
    run_until_sigterm(compose(TINY), TrainBatches, "augmented", 6)
    experiment.run(compose([*TINY, "schedule.epochs=2"]))
    printed = capsys.readouterr().out
    assert "is this run with 3 epochs" in printed
    assert "starts from the beginning" in printed
    assert "resuming" not in printed


class Trap:
    """Creates a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_an_untrusted_checkpoint_executes_nothing(capsys):
    cfg = compose(TINY)
    folder = run_directory(cfg) / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"config": Trap()}, folder / "made.pt")
    for data in ((folder / "made.pt").read_bytes(), pickle.dumps(Trap(), protocol=2)):
        (folder / f"epoch=1-step=0-{_digest(data)}.pt").write_bytes(data)
        assert Checkpoints(cfg).newest() is None
    assert not os.path.exists("executed")
    assert "is not a checkpoint and is skipped" in capsys.readouterr().err


def test_an_untrusted_configuration_executes_nothing(monkeypatch):
    """YAML tags and Hydra's _target_ are read as data."""
    cfg = compose(TINY)
    experiment.run(cfg)
    file = run_directory(cfg) / "config.yaml"
    file.write_text("!!python/object/apply:os.mkdir [executed]\n")
    typed(monkeypatch, "show=runs")
    assert typed(monkeypatch, "+trap._target_=os.mkdir", "+trap.path=executed") == 2
    assert not os.path.exists("executed")


def test_a_diverged_run_keeps_the_checkpoint_before_it_diverged(monkeypatch):
    cfg = compose(TINY)
    forward, calls = torch.nn.functional.cross_entropy, []

    def breaking(*arguments, **more):
        calls.append(1)
        broken = len(calls) == 20  # in the second epoch
        return forward(*arguments, **more) * (float("nan") if broken else 1)

    monkeypatch.setattr("localsl.core.objectives.F.cross_entropy", breaking)
    with pytest.raises(experiment.Diverged, match=r"module \d is nan in epoch"):
        experiment.run(cfg)
    record = json.loads((run_directory(cfg) / "record.json").read_text())
    assert record["status"] == "diverged"
    state = Checkpoints(cfg).newest()
    assert state is not None
    assert state["epochs"] == len(state["rows"]) > 0
    assert all(bool(value.isfinite().all()) for value in state["network"].values())


def test_weights_that_are_not_finite_are_not_saved(monkeypatch):
    """An auxiliary network that breaks in an epoch's last step affects neither the epoch's losses nor the test."""
    cfg = compose(TINY)
    evaluate, calls = classification.evaluate, []

    def breaking(network, *arguments):
        calls.append(1)
        if len(calls) == 2:
            next(network.auxiliary.parameters()).data.fill_(float("inf"))
        return evaluate(network, *arguments)

    monkeypatch.setattr(classification, "evaluate", breaking)
    with pytest.raises(experiment.Diverged, match="weights are no longer finite after 2 epochs"):
        experiment.run(cfg)
    state = Checkpoints(cfg).newest()
    assert state is not None
    assert state["epochs"] == 1


def test_a_logger_that_fails_is_reported_once_and_no_longer_used(monkeypatch, capsys):
    class Breaking:
        def row(self, row):
            raise ConnectionError("the server is gone")

        def close(self, record):
            raise AssertionError("a failed logger is not used again")

    monkeypatch.setitem(experiment.tracking.SINKS, "csv", [lambda *_: Breaking()])
    record = experiment.run(compose(TINY))
    assert record is not None
    assert record["status"] == "done"
    assert capsys.readouterr().err.count("csv failed and is no longer used: the server is gone") == 1


def test_a_broken_configuration_in_a_neighbouring_folder_does_not_stop_a_run():
    cfg = compose(TINY)
    for name, text in (
        ("a", ""),
        ("b", "!!python/object/apply:os.mkdir [executed]"),
        ("c", "method: {rule: gone}"),
    ):
        folder = run_directory(cfg).parent / f"seed={cfg.seed}-{name}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(text)
    record = experiment.run(cfg)
    assert record is not None
    assert record["status"] == "done"
