"""A run that is stopped or killed goes on where it was, bit for bit; damaged checkpoints are noticed."""

import contextlib
import io
import os
import random
import subprocess
import sys
import time
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

FUZZ = bool(os.environ.get("LOCALSL_FUZZ"))  # make fuzz


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_goes_on_bit_for_bit(method):
    """Stopped in the second epoch after its first step, after its second, and in the evaluation at its end."""
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


def test_a_run_killed_after_its_last_checkpoint_trains_nothing_again(monkeypatch):
    cfg = compose(TINY)
    experiment.run(cfg)
    before = left_by(cfg)
    (run_directory(cfg) / "record.json").unlink()
    (run_directory(cfg) / "metrics.csv").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("localsl.runs.training.train_epoch", lambda *_: pytest.fail("trained again"))
        experiment.run(cfg)
    assert_same(left_by(cfg), before)


def test_a_stop_after_the_last_safe_point_is_obeyed_once_the_run_is_done():
    """In a sweep the next run does not begin."""
    run_until_sigterm(compose(TINY), Checkpoints, "save", 3, status="done")


def test_a_run_trained_again_for_its_checkpoint_goes_on_after_a_stop():
    """Though its record is among the results, which keep no checkpoints."""
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


def test_a_run_that_was_begun_on_another_kind_of_device_says_so(monkeypatch, capsys):
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
    assert record["peak_memory_bytes"] == straight["peak_memory_bytes"]  # counted anew: a GPU's is not a CPU's


def two_checkpoints():
    """The checkpoints of a run that was stopped in its third epoch: the newest, and the one before."""
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


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(how, capsys):
    cfg, older, newest = two_checkpoints()
    DAMAGE[how](newest)
    state = Checkpoints(cfg).newest()
    assert state is not None
    assert (state["epochs"], state["steps"]) == (2, 0)
    assert f"{newest.name} is damaged" in capsys.readouterr().err
    DAMAGE[how](older)
    assert Checkpoints(cfg).newest() is None
    run_until_sigterm(cfg, TrainBatches, "augmented", 5)  # from the start, then: what is written now must stay
    state = Checkpoints(cfg).newest()
    assert state is not None
    assert (state["epochs"], state["steps"]) == (1, 1)
    experiment.run(cfg)
    _, metrics, _ = left_by(cfg)
    assert metrics["epoch"] == ["1", "2", "3"]


def test_a_checkpoint_of_another_run_is_not_taken(capsys):
    _, _, newest = two_checkpoints()
    other = compose([*TINY, "optimizer.lr=0.2", "seed=3"])
    folder = run_directory(other) / "checkpoints"
    folder.mkdir(parents=True)
    newest.rename(folder / newest.name)
    assert Checkpoints(other).newest() is None
    told = capsys.readouterr().err
    assert "optimizer.lr is 0.1 there, but 0.2 in this run" in told
    assert "seed is 1234 there, but 3 in this run" in told
    assert "schedule" not in told
    assert [file.suffix for file in folder.iterdir()] == [".pt"]  # who only looks at it leaves it
    assert Checkpoints(other).newest(set_aside=True) is None
    assert [file.suffix for file in folder.iterdir()] == [".rejected"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(monkeypatch):
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


def test_a_failed_write_leaves_no_view_of_the_state_behind(monkeypatch):
    """Of which a buffer could not be closed."""
    buffer = io.BytesIO()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    cfg = compose(tiny_of("dgl"))
    run_directory(cfg).mkdir(parents=True)
    monkeypatch.setattr(checkpoint, "io", SimpleNamespace(BytesIO=lambda: buffer))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space") as error:
        Checkpoints(cfg).save({}, 1, 0)
    assert error.traceback  # whose frames hold it
    buffer.close()


def test_checkpoints_can_be_rarer_or_none(monkeypatch):
    written = []
    monkeypatch.setattr(Checkpoints, "save", lambda _self, _state, epochs, _steps: written.append(epochs))
    experiment.run(compose([*TINY, "checkpoint.every=2"]))
    assert written == [2, 3]
    experiment.run(compose([*TINY, "checkpoint.every=null", "seed=1"]))
    assert written == [2, 3]


def killed(overrides, kills, seed):
    """A run that gets SIGKILL so many times, at moments spread over the whole run, and one that does not."""
    line = [sys.executable, str(ROOT / "run.py"), *overrides, "threads=1"]
    one, other = (compose([*overrides, f"output_dir={name}"]) for name in ("straight", "killed"))
    began = time.perf_counter()
    subprocess.run([*line, "output_dir=straight"], check=True, capture_output=True)
    whole, record, moment = time.perf_counter() - began, stored.read_record(one), random.Random(seed)
    assert record is not None
    start = whole - record["seconds"]
    for _ in range(kills):
        process = subprocess.Popen([*line, "output_dir=killed"], stdout=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment.uniform(0.5 * start, start + 1.5 * record["seconds"] / kills))
        process.kill()
        process.wait()
    subprocess.run([*line, "output_dir=killed"], check=True, capture_output=True)
    assert_same(left_by(other), left_by(one))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS if FUZZ else ["dgl", "mlaan_released"])
def test_a_run_killed_three_times_ends_as_if_it_was_not(method):
    killed([*tiny_of(method), "schedule.epochs=8"], 3, method)


@pytest.mark.slow
@pytest.mark.skipif(not FUZZ, reason="make fuzz")
def test_a_run_killed_fifty_times_ends_as_if_it_was_not():
    """Most processes get a few epochs on."""
    killed([*tiny_of("man"), "schedule.epochs=200"], 50, "fifty")


def test_a_gpus_tensors_come_over_in_one_copy_of_each_type():
    layout = torch.channels_last
    weights = {"a": torch.randn(4, 3, 2, 2).to(memory_format=layout), "count": torch.tensor(7), "none": None}
    state = {"network": weights, "optimizer": [{}, {"momentum_buffer": torch.randn(5)}], "epochs": 2}
    brought = checkpoint.on_cpu(state, lambda t: True)
    found = [brought["network"]["a"], brought["optimizer"][1]["momentum_buffer"]]
    assert len({tensor.untyped_storage().data_ptr() for tensor in found}) == 1
    torch.testing.assert_close(brought, state, rtol=0, atol=0)
    assert brought["epochs"] == 2
    assert checkpoint.on_cpu(state)["network"]["a"] is weights["a"]
