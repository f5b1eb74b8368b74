"""The stage `train`: training runs in the order of their priority, as many as fit into the remaining time."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localsl.config.composition import Composition
from localsl.config.validation import compose
from localsl.core.settings import ConfigError
from localsl.data import sources
from localsl.execution import files
from localsl.measure.gpu.cells import label, reason
from localsl.measure.gpu.groups import ROOT, Group, end
from localsl.measure.gpu.stages import WRITE_INTERVAL, Write
from localsl.measure.records import measured
from localsl.runs import identity, stored
from localsl.train.task import score

if TYPE_CHECKING:
    from localsl.config.command import Command

GRACE = 10.0  # seconds for an interrupted run to write its checkpoint and record
START = 15.0  # seconds until a run's first step
UNKNOWN = 40.0  # assumed milliseconds per step of runs whose speed was not measured

SETTING = "dataset=cifar10 backbone=resnet32 K=16 batch_size=1024 schedule=short seed=0"
RULES = ["method=bp", "method=dgl", "method=auglocal aux.depth=2", "method=auglocal aux.depth=6"]
RULES += ["method=man aux_net=dgl", "method=mlaan", "method=infopro", "method=predsim"]
RULES += ["method=auglocal aux.depth=4", "method=man aux_net=predsim"]
DEFAULT = [f"{rule} {SETTING}" for rule in RULES]


def lines(file: Path | None) -> list[str]:
    """The runs in a file, one per line with comments after #; without a file, DEFAULT."""
    if file is None:
        return DEFAULT
    stripped = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return [line for line in stripped if line]


@dataclass(frozen=True)
class Places:
    """The folders and the device of runs.

    Attributes:
        work: the folder that runs write to.
        data: the folder of data sets; None for the default.
        device: the device of all runs.
        results: a folder with recorded speeds, besides those in `work`.
    """

    work: Path
    data: str | None
    device: str
    results: Path = ROOT / "results"

    def overrides(self) -> list[str]:
        """Overrides for every run; its results folder is not the checkout's, so that known runs are repeated."""
        folders = [f"output_dir={self.work}/outputs", f"results_dir={self.work}/results"]
        folders += [f"data_dir={self.data}"] if self.data else []
        return [*folders, f"device={self.device}", "held=skip"]


@dataclass
class Run:
    """A run of the queue.

    Attributes:
        line: its overrides of run.py.
        name: the overrides that distinguish it from other runs.
        state: waiting, running, done, or why it is none of these.
        estimate: expected seconds, while other workers run too.
        seconds: the time that it took.
    """

    line: str
    name: str
    state: str = "waiting"
    estimate: float = 0.0
    seconds: float = 0.0
    folder: Path | None = None
    began: float = 0.0
    group: Group | None = field(default=None, repr=False)

    @property
    def ended_well(self) -> bool:
        """Whether it did not fail; a run for which there was no time has not failed."""
        return self.state in ("done", "held") or self.state.startswith(("does not fit", "stopped"))

    def row(self) -> dict[str, Any]:
        """The row of the run in the stage's table."""
        record = (self.folder and stored.read(self.folder / "record.json")) or {}
        last, best = record.get("last") or {}, record.get("best") or {}
        return {
            "run": self.name,
            "state": self.state,
            "estimate": f"{self.estimate:.0f} s",
            "took": f"{self.seconds:.0f} s" if self.seconds else "",
            "epochs": str(last.get("epoch", "")),
            "test %": f"{score(last):.2f}" if last else "",
            "best %": f"{score(best):.2f}" if best else "",
        }


class Queue:
    """Runs in the order of their priority, each in its own process, `workers` at a time."""

    def __init__(self, lines: Sequence[str], places: Places, workers: int):
        self._places, self._workers = places, workers
        shared = set.intersection(*(set(line.split()) for line in lines)) if len(lines) > 1 else set()
        self.runs = [Run(line, _without(line, shared)) for line in lines]
        composition = Composition()
        for run in self.runs:
            try:
                cfg = compose([*run.line.split(), *places.overrides()], composition)
            except ConfigError as error:
                run.state = reason(error)
            else:
                run.folder, run.estimate = identity.run_directory(cfg), self._estimate(cfg)

    def work(self, deadline: float, write: Write) -> str:
        """Train until the deadline (of `time.monotonic`), then interrupt the runs that are not done."""
        running: list[Run] = []
        written = time.monotonic()
        try:
            while time.monotonic() < deadline:
                ended = [run for run in running if self._ended(run)]
                running = [run for run in running if run not in ended]
                changed = self._fill(running, deadline)
                if not running:
                    break
                if ended or changed or time.monotonic() - written > WRITE_INTERVAL:
                    self._write_table()
                    write()
                    written = time.monotonic()
                time.sleep(0.05)
        finally:  # also after Ctrl-C and SIGTERM
            end([run.group for run in running if run.group is not None], GRACE)
            for run in running:
                self._ended(run, stopped=True)
            self._write_table()
        done = sum(run.state == "done" for run in self.runs)
        succeeded = all(run.ended_well for run in self.runs)
        return f"{'done' if succeeded else 'failed'}: {done} of {len(self.runs)} runs are done"

    def _fill(self, running: list[Run], deadline: float) -> bool:
        """Start waiting runs that fit; return whether the state of any run changed."""
        changed = False
        for number, run in enumerate(self.runs, 1):
            if len(running) >= self._workers:
                break
            if run.state != "waiting":
                continue
            changed, left = True, deadline - time.monotonic()
            if run.estimate > left:
                run.state = f"does not fit into {left:.0f} s"
                self._print(run)
                continue
            command = [sys.executable, str(ROOT / "run.py"), *run.line.split(), *self._places.overrides()]
            output = self._places.work / f"train-{number:02}.txt"
            output.unlink(missing_ok=True)
            run.group, run.state, run.began = Group(command, output), "running", time.monotonic()
            running.append(run)
        return changed

    def _ended(self, run: Run, stopped: bool = False) -> bool:
        """Whether a run has ended; if so, its state is updated."""
        assert run.group is not None
        code = run.group.poll()
        if code is None:
            return False
        run.group.kill()  # ends children that the run may have left behind
        run.seconds = time.monotonic() - run.began
        record = stored.read(run.folder / "record.json") if run.folder else None
        status = record["status"] if record is not None else "held" if code == 0 else "failed"
        if stopped and status != "done":
            run.state = "stopped at the deadline"
        else:
            run.state = status if code == 0 else f"{status} ({code})"
        self._print(run)
        return True

    def _estimate(self, cfg: Command) -> float:
        speed = measured(replace(cfg, measure="speed", results_dir=str(self._places.results)))
        milliseconds = UNKNOWN if speed is None else speed["figures"]["ms_median"]
        steps = math.ceil(sources.training_images(cfg.dataset) / cfg.batch_size) * cfg.schedule.epochs
        return steps * milliseconds / 1e3 * self._workers + START

    def _write_table(self) -> None:
        rows = [run.row() for run in self.runs]
        files.write(self._places.work / "train.json", json.dumps(rows, indent=2) + "\n")

    def _print(self, run: Run) -> None:
        print(f"{run.name}: {run.state}, {run.seconds:.0f} s", flush=True)


def _without(line: str, shared: set[str]) -> str:
    """A short name from the words of a line that are not in all lines."""
    return label(" ".join(word for word in line.split() if word not in shared)) or label(line)
