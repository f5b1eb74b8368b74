"""`python -m localsl.measure.gpu`: tests, memory, speed and training on a GPU within a time limit."""

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
from localsl.measure.gpu.stages import Stage, Write, command, run_stages

# For each stage, its share of the remaining time and the seconds that earlier stages leave to it at least.
SHARES = {"tests": (45, 85), "memory": (20, 25), "speed": (60, 60), "train": (240, 60)}
RESERVED = 12.0  # seconds at the end for stopping processes and writing the archive


def stages(args: argparse.Namespace) -> list[Stage]:
    """The requested stages, in order."""
    common = ["--work", str(args.work), "--device", args.device, "--setting", args.setting]
    common += ["--rules", args.rules]
    python = [sys.executable, "-m"]
    parallel = ["-n", str(args.test_workers), "--dist", "load", "--maxschedchunk", "1"]
    tests = [*python, "pytest", "tests/execution/test_cuda.py", "-q", "-rf", "-p", "no:cacheprovider"]
    tests += ["--durations=15"]
    tests += parallel if importlib.util.find_spec("xdist") and args.test_workers > 1 else []
    memory = [*python, "localsl.measure.gpu.peaks", *common]
    speed = [*python, "localsl.measure.gpu.speeds", *common, "--seconds", str(args.rule_seconds)]
    speed += ["--columns", args.columns] if args.columns else []

    def train(deadline: float, write: Write) -> str:
        places = Places(args.work, args.data, "cuda" if args.device == "auto" else args.device)
        return Queue(lines(args.queue), places, args.workers).work(deadline, write)

    work = {
        "tests": command(tests, args.work / "tests.txt"),
        "memory": command(memory, args.work / "memory.txt"),
        "speed": command(speed, args.work / "speed.txt", again=["--go-on"]),
        "train": train,
    }
    return [Stage(name, *SHARES[name], work[name]) for name in args.stages]


def main(arguments: Sequence[str]) -> int:
    """Run the requested stages; return 1 if a stage failed, 2 without a GPU, else 0."""
    began = time.monotonic()
    args = _parse(arguments)
    if args.device != "cpu" and not torch.cuda.is_available():
        what = "torch finds no CUDA device: make gpu is for a machine that has one"
        print(f"{what}; --device cpu runs it without a GPU", file=sys.stderr)
        return 2
    report = Report(args.work, args.out, devices.chosen(args.device))
    deadline = began + args.seconds - min(RESERVED, args.seconds / 5)
    try:
        with _stopped_by_signals():
            succeeded = run_stages(stages(args), deadline, report)
    except KeyboardInterrupt:
        succeeded = False
    print(f"{args.out / SUMMARY}, {args.out / ARCHIVE}")
    return 0 if succeeded else 1


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM end this process and its children as Ctrl-C does.

    SIGINT gets a handler too: a shell starts background processes with SIGINT ignored, which children would inherit.
    """
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m localsl.measure.gpu", description=__doc__)
    parser.add_argument(
        "--stages", type=_names, default=["tests", "memory", "speed"], help=f"some of {','.join(SHARES)}"
    )
    parser.add_argument("--seconds", type=float, default=300, help="time limit for all stages")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "outputs" / "gpu", help="folder for intermediate results"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=os.environ.get("OUT") or ROOT / "results" / "bench",
        help="folder for the summary and the archive",
    )
    parser.add_argument("--data", help="folder of data sets for training runs (data_dir)")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1, or cpu to run without a GPU")
    parser.add_argument("--queue", type=Path, help="file of training runs: overrides of run.py, by priority")
    parser.add_argument("--workers", type=int, default=2, help="number of training runs at a time")
    parser.add_argument(
        "--test-workers", type=int, default=min(8, os.cpu_count() or 1), help="processes of the tests"
    )
    parser.add_argument("--rule-seconds", type=float, default=1.5, help="seconds for which each rule is timed")
    parser.add_argument("--columns", default="", help="ways of execution to time, such as fp32,bf16")
    parser.add_argument("--rules", default="", help="rules for memory and speed, such as bp,auglocal d=3")
    parser.add_argument("--setting", default="", help="overrides of run.py for all of memory and speed")
    args = parser.parse_args(arguments)
    args.work, args.out = args.work.resolve(), Path(args.out).resolve()
    args.data = args.data and str(Path(args.data).expanduser().resolve())
    args.queue = args.queue and args.queue.resolve()
    return args


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SHARES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {','.join(SHARES)}")
    return [name for name in SHARES if name in names]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
