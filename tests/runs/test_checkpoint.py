"""Stopped and killed runs resume bit for bit from their checkpoints; damaged checkpoints are skipped."""

import contextlib
import hashlib
import io
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from localsl.config import compose
from localsl.core.settings import LocalslError
from localsl.data.batches import TrainBatches
from localsl.runs import checkpoint, classification, experiment, stored
from localsl.runs.checkpoint import Checkpoints
from localsl.runs.identity import kept_directory, run_directory
from localsl.tables import records
from localsl.train.peak_memory import PeakMemory
from tests.conftest import ROOT
from tests.helpers.runs import METHODS, TINY, assert_same, left_by, run_until_sigterm, tiny_of

FUZZ = bool(os.environ.get("LOCALSL_FUZZ"))  # set by `make fuzz`


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_resumes_bit_for_bit(method):
    """It is stopped in the second epoch: after the first step, after the second, and in the evaluation."""
    straight, stopped = (compose([*tiny_of(method), f"output_dir={name}"]) for name in ("straight", "stopped"))
    experiment.run(straight)
    stops = [
        (TrainBatches, "augmented", 5, 1),
        (TrainBatches, "augmented", 2, 2),
        (classification, "evaluate", 1, 3),
    ]
    for owner, name, call, steps in stops:
        run_until_sigterm(stopped, owner, name, call)
        state = Checkpoints(stopped).newest()
        assert state is not None
        assert (state["epochs"], state["steps"]) == (1, steps)
    experiment.run(stopped)
    assert_same(left_by(stopped), left_by(straight))


def test_a_run_killed_after_its_last_checkpoint_is_not_trained_again(monkeypatch):
    cfg = compose(TINY)
    experiment.run(cfg)
    before = left_by(cfg)
    (run_directory(cfg) / "record.json").unlink()
    (run_directory(cfg) / "metrics.csv").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("localsl.runs.training.train_epoch", lambda *_: pytest.fail("trained again"))
        experiment.run(cfg)
    assert_same(left_by(cfg), before)


def test_a_stop_after_the_last_step_takes_effect_when_the_run_is_done():
    """The exit code is the signal's, so that a sweep does not start its next run."""
    run_until_sigterm(compose(TINY), Checkpoints, "save", 3, status="done")


def test_a_run_among_the_results_tells_how_to_train_it_again(capsys):
    cfg = compose(TINY)
    experiment.run(cfg)
    run_directory(cfg).rename("run")
    kept_directory(cfg).parent.mkdir(parents=True)
    Path("run").rename(kept_directory(cfg))
    experiment.run(cfg)
    assert "(type checkpoint.required=true to run it again)" in capsys.readouterr().out


def test_a_run_that_is_repeated_for_its_checkpoint_resumes_after_a_stop():
    """The results have its record already, but they keep no checkpoints."""
    cfg = compose([*TINY, "checkpoint.required=true"])
    kept_directory(cfg).mkdir(parents=True)
    (kept_directory(cfg) / "record.json").write_text('{"status": "done"}')
    run_until_sigterm(cfg, TrainBatches, "augmented", 5)
    assert records.state(cfg) == "interrupted"
    experiment.run(cfg)
    assert stored.finished(cfg) == run_directory(cfg)
    (checkpoint,) = (run_directory(cfg) / "checkpoints").iterdir()
    flip_a_bit(checkpoint)
    assert stored.finished(cfg) is None


def test_resuming_on_another_kind_of_device_prints_a_note_and_measures_memory_again(monkeypatch, capsys):
    cfg = compose(TINY)
    scope = property(lambda _: "CUDA allocator's peak")
    with monkeypatch.context() as patch:
        patch.setattr(PeakMemory, "scope", scope)
        run_until_sigterm(cfg, TrainBatches, "augmented", 5)
    record = experiment.run(cfg)
    assert "began on another kind of device than cpu" in capsys.readouterr().out
    assert record is not None
    straight = experiment.run(compose([*TINY, "output_dir=other"]))
    assert straight is not None
    assert record["peak_memory_bytes"] == straight["peak_memory_bytes"]


def two_checkpoints():
    """A run that was stopped in its third epoch: its configuration and its older and newest checkpoint."""
    cfg = compose(TINY)
    run_until_sigterm(cfg, TrainBatches, "augmented", 9)
    older, newest = sorted((run_directory(cfg) / "checkpoints").iterdir())
    return cfg, older, newest


def flip_a_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "emptied": lambda file: os.truncate(file, 0),
    "bit-flipped": flip_a_bit,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(kind, capsys):
    cfg, older, newest = two_checkpoints()
    DAMAGE[kind](newest)
    state = Checkpoints(cfg).newest()
    assert state is not None
    assert (state["epochs"], state["steps"]) == (2, 0)
    assert f"{newest.name} is damaged" in capsys.readouterr().err
    DAMAGE[kind](older)
    assert Checkpoints(cfg).newest() is None
    # Without a valid checkpoint the run starts from the beginning, and the checkpoints that it writes must stay.
    run_until_sigterm(cfg, TrainBatches, "augmented", 5)
    state = Checkpoints(cfg).newest()
    assert state is not None
    assert (state["epochs"], state["steps"]) == (1, 1)
    experiment.run(cfg)
    _, metrics, _ = left_by(cfg)
    assert metrics["epoch"] == ["1", "2", "3"]


def test_a_checkpoint_of_another_run_is_reported_and_skipped(capsys):
    _, _, newest = two_checkpoints()
    other = compose([*TINY, "optimizer.lr=0.2", "seed=3"])
    folder = run_directory(other) / "checkpoints"
    folder.mkdir(parents=True)
    newest.rename(folder / newest.name)
    assert Checkpoints(other).newest() is None
    errors = capsys.readouterr().err
    assert "optimizer.lr is 0.1 there, but 0.2 in this run" in errors
    assert "seed is 1234 there, but 3 in this run" in errors
    assert "schedule" not in errors
    assert [file.suffix for file in folder.iterdir()] == [".pt"]  # reading alone does not rename it
    assert Checkpoints(other).newest(set_aside=True) is None
    assert [file.suffix for file in folder.iterdir()] == [".rejected"]


def test_a_checkpoint_of_an_earlier_version_is_reported_and_skipped(capsys):
    cfg, older, newest = two_checkpoints()
    older.unlink()
    state = torch.load(newest, weights_only=True)
    del state["processes"]  # which checkpoints have had since they are independent of the number of processes
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
    newest.unlink()
    file = newest.with_name(f"{newest.name.rpartition('-')[0]}-{digest}.pt")
    file.write_bytes(buffer.getvalue())
    assert Checkpoints(cfg).newest() is None
    assert f"{file} was written by an earlier version and is skipped" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones(monkeypatch):
    cfg, older, newest = two_checkpoints()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(LocalslError, match="No space"):
            experiment.run(cfg)
    assert older.exists()
    assert newest.exists()
    experiment.run(cfg)
    assert list(newest.parent.glob(".*")) == []


def test_a_failed_write_keeps_no_view_of_the_buffer(monkeypatch):
    """A buffer cannot be closed while a view of it exists."""
    buffer = io.BytesIO()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    cfg = compose(tiny_of("dgl"))
    run_directory(cfg).mkdir(parents=True)
    monkeypatch.setattr(checkpoint, "io", SimpleNamespace(BytesIO=lambda: buffer))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space") as error:
        Checkpoints(cfg).save({}, 1, 0)
    assert error.traceback  # its frames would keep the view alive
    buffer.close()


def test_checkpoint_every_sets_after_which_epochs_checkpoints_are_written(monkeypatch):
    written = []
    monkeypatch.setattr(Checkpoints, "save", lambda _self, _state, epochs, _steps: written.append(epochs))
    experiment.run(compose([*TINY, "checkpoint.every=2"]))
    assert written == [2, 3]
    experiment.run(compose([*TINY, "checkpoint.every=null", "seed=1"]))
    assert written == [2, 3]


def assert_kills_change_nothing(overrides, kills, seed):
    """A run that is killed `kills` times at random moments leaves the same files as one that is never killed."""
    line = [sys.executable, str(ROOT / "run.py"), *overrides, "threads=1"]
    straight, killed = (compose([*overrides, f"output_dir={name}"]) for name in ("straight", "killed"))
    began = time.perf_counter()
    subprocess.run([*line, "output_dir=straight"], check=True, capture_output=True)
    total, record, rng = time.perf_counter() - began, stored.read_record(straight), random.Random(seed)
    assert record is not None
    start = total - record["seconds"]  # seconds until training starts
    for _ in range(kills):
        process = subprocess.Popen([*line, "output_dir=killed"], stdout=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.5 * start, start + 1.5 * record["seconds"] / kills))
        process.kill()
        process.wait()
    subprocess.run([*line, "output_dir=killed"], check=True, capture_output=True)
    assert_same(left_by(killed), left_by(straight))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS if FUZZ else ["dgl", "mlaan_released"])
def test_a_run_killed_three_times_leaves_the_same_as_one_never_killed(method):
    assert_kills_change_nothing([*tiny_of(method), "schedule.epochs=8"], 3, method)


@pytest.mark.slow
@pytest.mark.skipif(not FUZZ, reason="make fuzz")
def test_a_run_killed_fifty_times_leaves_the_same_as_one_never_killed():
    """Most processes complete a few epochs."""
    assert_kills_change_nothing([*tiny_of("man"), "schedule.epochs=200"], 50, "fifty")


def test_tensors_of_a_gpu_are_copied_to_the_cpu_in_one_copy_per_type():
    layout = torch.channels_last
    weights = {"a": torch.randn(4, 3, 2, 2).to(memory_format=layout), "count": torch.tensor(7), "none": None}
    state = {"network": weights, "optimizer": [{}, {"momentum_buffer": torch.randn(5)}], "epochs": 2}
    copied = checkpoint.on_cpu(state, lambda t: True)
    tensors = [copied["network"]["a"], copied["optimizer"][1]["momentum_buffer"]]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
    torch.testing.assert_close(copied, state, rtol=0, atol=0)
    assert copied["epochs"] == 2
    assert checkpoint.on_cpu(state)["network"]["a"] is weights["a"]
