"""The stage `train`: runs by their priority, as many as fit into the time that is left."""

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
from localsl.measure.gpu.cells import label, reason
from localsl.measure.gpu.groups import ROOT, Group, end
from localsl.measure.gpu.stages import TELL_EVERY, Tell
from localsl.measure.records import measured
from localsl.runs import identity, tracking
from localsl.train.task import score

if TYPE_CHECKING:
    from localsl.config.command import Command

GRACE = 10.0  # seconds in which a run that is interrupted writes its checkpoint and record
START = 15.0  # seconds until a run's first step
UNKNOWN = 40.0  # milliseconds a step where none were measured

SETTING = "dataset=cifar10 backbone=resnet32 K=16 batch_size=1024 schedule=short seed=0"
RULES = ["method=bp", "method=dgl", "method=auglocal aux.depth=2", "method=auglocal aux.depth=6"]
RULES += ["method=man aux_net=dgl", "method=mlaan", "method=infopro", "method=predsim"]
RULES += ["method=auglocal aux.depth=4", "method=man aux_net=predsim"]
DEFAULT = [f"{rule} {SETTING}" for rule in RULES]


def lines(file: Path | None) -> list[str]:
    """The runs of a file, one a line, what follows a # left out; by default those of this module."""
    if file is None:
        return DEFAULT
    typed = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return [line for line in typed if line]


@dataclass(frozen=True)
class Places:
    """Where runs find and write things.

    Attributes:
        results: what is known of speeds beside what is measured in `work`.
    """

    work: Path
    data: str | None
    device: str
    results: Path = ROOT / "results"

    def overrides(self) -> list[str]:
        """For every run: results that are not the checkout's, so that a run of them is done again here."""
        told = [f"output_dir={self.work}/outputs", f"results_dir={self.work}/results", f"device={self.device}"]
        return [*told, *([f"data_dir={self.data}"] if self.data else []), "held=skip"]


@dataclass
class Run:
    """A line of the queue.

    Attributes:
        name: what tells it from the others.
        state: waiting, running, done, or why it is neither.
        estimate: seconds that it takes beside the other workers' runs.
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
        """Whether nothing went wrong; a run that time did not allow has not failed."""
        return self.state in ("done", "held") or self.state.startswith(("does not fit", "stopped"))

    def row(self) -> dict[str, Any]:
        """Of the stage's table."""
        record = (self.folder and tracking.read(self.folder / "record.json")) or {}
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
    """Runs in the order of their priority, each a process, some at a time."""

    def __init__(self, typed: Sequence[str], places: Places, workers: int):
        self._places, self._workers = places, workers
        shared = set.intersection(*(set(line.split()) for line in typed)) if len(typed) > 1 else set()
        self.runs = [Run(line, _without(line, shared)) for line in typed]
        composition = Composition()
        for run in self.runs:
            try:
                cfg = compose([*run.line.split(), *places.overrides()], composition)
            except ConfigError as error:
                run.state = reason(error)
            else:
                run.folder, run.estimate = identity.run_directory(cfg), self._estimate(cfg)

    def work(self, deadline: float, tell: Tell) -> str:
        """Train until the deadline (of `time.monotonic`); those that are not done then are interrupted."""
        running: list[Run] = []
        told = time.monotonic()
        try:
            while time.monotonic() < deadline:
                ended = [run for run in running if self._ended(run)]
                running = [run for run in running if run not in ended]
                begun = self._fill(running, deadline)
                if not running:
                    break
                if ended or begun or time.monotonic() - told > TELL_EVERY:
                    self._note()
                    tell()
                    told = time.monotonic()
                time.sleep(0.05)
        finally:  # of Ctrl-C and SIGTERM too
            end([run.group for run in running if run.group is not None], GRACE)
            for run in running:
                self._ended(run, stopped=True)
            self._note()
        done = sum(run.state == "done" for run in self.runs)
        well = all(run.ended_well for run in self.runs)
        return f"{'done' if well else 'failed'}: {done} of {len(self.runs)} runs are done"

    def _fill(self, running: list[Run], deadline: float) -> bool:
        """Start what fits; whether something was started or passed over."""
        changed = False
        for number, run in enumerate(self.runs, 1):
            if len(running) >= self._workers:
                break
            if run.state != "waiting":
                continue
            changed, left = True, deadline - time.monotonic()
            if run.estimate > left:  # nor will it later
                run.state = f"does not fit into {left:.0f} s"
                self._say(run)
                continue
            command = [sys.executable, str(ROOT / "run.py"), *run.line.split(), *self._places.overrides()]
            output = self._places.work / f"train-{number:02}.txt"
            output.unlink(missing_ok=True)
            run.group, run.state, run.began = Group(command, output), "running", time.monotonic()
            running.append(run)
        return changed

    def _ended(self, run: Run, stopped: bool = False) -> bool:
        """Note how a run ended, if it has."""
        assert run.group is not None
        code = run.group.poll()
        if code is None:
            return False
        run.group.kill()  # what it may have left behind
        run.seconds = time.monotonic() - run.began
        record = tracking.read(run.folder / "record.json") if run.folder else None
        status = record["status"] if record is not None else "held" if code == 0 else "failed"
        if stopped and status != "done":
            run.state = "stopped at the deadline"
        else:
            run.state = status if code == 0 else f"{status} ({code})"
        self._say(run)
        return True

    def _estimate(self, cfg: Command) -> float:
        speed = measured(replace(cfg, measure="speed", results_dir=str(self._places.results)))
        milliseconds = UNKNOWN if speed is None else speed["figures"]["ms_median"]
        steps = math.ceil(sources.training_images(cfg.dataset) / cfg.batch_size) * cfg.schedule.epochs
        return steps * milliseconds / 1e3 * self._workers + START

    def _note(self) -> None:
        rows = [run.row() for run in self.runs]
        tracking.write_atomically(self._places.work / "train.json", json.dumps(rows, indent=2) + "\n")

    def _say(self, run: Run) -> None:
        print(f"{run.name}: {run.state}, {run.seconds:.0f} s", flush=True)


def _without(line: str, shared: set[str]) -> str:
    """A line's words but those that all lines have."""
    return label(" ".join(word for word in line.split() if word not in shared)) or label(line)
