"""`python -m localsl.measure.gpu`: tests, memory, speed and training on a GPU, in a time that is given."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from localsl.execution import devices
from localsl.measure.gpu.archive import ARCHIVE, SUMMARY, Report
from localsl.measure.gpu.groups import ROOT
from localsl.measure.gpu.queue import Places, Queue, lines
from localsl.measure.gpu.stages import Stage, Tell, command, in_turn

# A stage's part of the time left, and the seconds that it has at least: those before it leave them.
SHARES = {"tests": (45, 85), "memory": (20, 25), "speed": (60, 60), "train": (240, 60)}
KEPT = 12.0  # seconds at the end for processes to stop in and for the archive


def stages(typed: argparse.Namespace) -> list[Stage]:
    """Those that were asked for, in this order."""
    common = ["--work", str(typed.work), "--device", typed.device, "--setting", typed.setting]
    common += ["--rules", typed.rules]
    python = [sys.executable, "-m"]
    parallel = ["-n", str(typed.test_workers), "--dist", "load", "--maxschedchunk", "1"]
    tests = [*python, "pytest", "tests/test_cuda.py", "-q", "-rf", "--durations=15", "-p", "no:cacheprovider"]
    tests += parallel if importlib.util.find_spec("xdist") and typed.test_workers > 1 else []
    memory = [*python, "localsl.measure.gpu.peaks", *common]
    speed = [*python, "localsl.measure.gpu.speeds", *common, "--seconds", str(typed.rule_seconds)]
    speed += ["--columns", typed.columns] if typed.columns else []

    def train(deadline: float, tell: Tell) -> str:
        places = Places(typed.work, typed.data, "cuda" if typed.device == "auto" else typed.device)
        return Queue(lines(typed.queue), places, typed.workers).work(deadline, tell)

    work = {
        "tests": command(tests, typed.work / "tests.txt"),
        "memory": command(memory, typed.work / "memory.txt"),
        "speed": command(speed, typed.work / "speed.txt", again=["--go-on"]),
        "train": train,
    }
    return [Stage(name, *SHARES[name], work[name]) for name in typed.stages]


def main(arguments: Sequence[str]) -> int:
    """What was asked for; 1 if a stage failed, 2 without a GPU."""
    began = time.monotonic()
    typed = _parsed(arguments)
    if typed.device != "cpu" and not torch.cuda.is_available():
        what = "torch finds no CUDA device: make gpu is for a machine that has one"
        print(f"{what}; --device cpu tries it without", file=sys.stderr)
        return 2
    report = Report(typed.work, typed.out, devices.chosen(typed.device))
    deadline = began + typed.seconds - min(KEPT, typed.seconds / 5)
    try:
        with _stopped_by_signals():
            well = in_turn(stages(typed), deadline, report)
    except KeyboardInterrupt:
        well = False
    print(f"{typed.out / SUMMARY}, {typed.out / ARCHIVE}")
    return 0 if well else 1


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does, all that was started with it.

    SIGINT is set too: a shell has what it runs in the background ignore it, and so would what is started here.
    """
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="python -m localsl.measure.gpu", description=__doc__)
    made.add_argument(
        "--stages", type=_names, default=["tests", "memory", "speed"], help=f"of {','.join(SHARES)}"
    )
    made.add_argument("--seconds", type=float, default=300, help="for all of it")
    made.add_argument("--work", type=Path, default=ROOT / "outputs" / "gpu", help="written to meanwhile")
    made.add_argument("--out", type=Path, default=os.environ.get("OUT") or ROOT / "results" / "bench")
    made.add_argument("--data", help="the folder of data sets, for runs (data_dir)")
    made.add_argument("--device", default="auto", help="auto, cuda, cuda:1, or cpu to try it without a GPU")
    made.add_argument("--queue", type=Path, help="a run a line: overrides of run.py, the most important first")
    made.add_argument("--workers", type=int, default=2, help="runs at a time")
    made.add_argument("--test-workers", type=int, default=min(8, os.cpu_count() or 1))
    made.add_argument("--rule-seconds", type=float, default=1.5, help="that a rule's steps are timed for")
    made.add_argument("--columns", default="", help="ways to execute steps, of speed: fp32,bf16")
    made.add_argument("--rules", default="", help="of memory and speed: bp,auglocal d=3")
    made.add_argument("--setting", default="", help="overrides for every cell of memory and speed")
    typed = made.parse_args(arguments)
    typed.work, typed.out = typed.work.resolve(), Path(typed.out).resolve()
    typed.data = typed.data and str(Path(typed.data).expanduser().resolve())
    typed.queue = typed.queue and typed.queue.resolve()
    return typed


def _names(typed: str) -> list[str]:
    names = typed.split(",")
    unknown = [name for name in names if name not in SHARES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {','.join(SHARES)}")
    return [name for name in SHARES if name in names]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
