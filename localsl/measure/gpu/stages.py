"""Stages that run one after another, each with a share of the remaining time; a failure stops no other stage."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from localsl.measure.gpu.groups import Group, end

GRACE = 5.0  # seconds from SIGINT to SIGKILL
WRITE_INTERVAL = 10.0  # seconds between writing the results while a stage runs
DEVICE_LOST = (
    4  # the exit code of a stage whose device is unusable for its process, but may be usable for another
)

Write = Callable[[], None]  # writes the results so far to where they outlast the machine


@dataclass(frozen=True)
class Stage:
    """Work to be done before a deadline.

    Attributes:
        share: its share of the remaining time, relative to the shares of the stages after it.
        minimum: seconds that earlier stages leave to it.
        work: works until the given deadline (of `time.monotonic`), and returns how it ended, with `done` as the first
            word if it succeeded.
    """

    name: str
    share: float
    minimum: float
    work: Callable[[float, Write], str]


class Log(Protocol):
    """Records the states of stages, and writes results."""

    def stage(self, name: str, state: str, seconds: float | None = None) -> None:
        """Record that a stage's state has changed."""
        ...

    def write(self) -> None:
        """Write the results so far."""
        ...


def limit(stages: Sequence[Stage], left: float) -> float:
    """The time limit of the first of these stages, of `left` remaining seconds."""
    first, *later = stages
    reserved = sum(stage.minimum for stage in later)
    scale = min(1.0, left / (first.minimum + reserved))  # below 1 if there is not enough time for all minima
    share = left * first.share / sum(stage.share for stage in stages)
    return min(max(share, first.minimum * scale), left - reserved * scale)


def run_stages(stages: Sequence[Stage], deadline: float, log: Log) -> bool:
    """Run the stages until the deadline; return whether all succeeded."""
    succeeded = True
    for index, stage in enumerate(stages):
        began = time.monotonic()
        seconds = limit(stages[index:], max(0.0, deadline - began))
        log.stage(stage.name, f"running, for at most {seconds:.0f} s")
        state = "stopped"
        try:
            state = stage.work(began + seconds, log.write)
        except Exception as error:
            traceback.print_exc()
            state = f"failed ({type(error).__name__}: {error})"
        finally:  # also after Ctrl-C and SIGTERM
            log.stage(stage.name, state, time.monotonic() - began)
        succeeded = succeeded and state.startswith("done")
    return succeeded


def command(words: Sequence[str], output: Path, again: Sequence[str] = ()) -> Callable[[float, Write], str]:
    """The work of running a command; if it loses its device, it is restarted with the arguments `again` added."""

    def work(deadline: float, write: Write) -> str:
        output.unlink(missing_ok=True)
        code = _run(words, output, deadline, write)
        while code == DEVICE_LOST and again:
            code = _run([*words, *again], output, deadline, write)
        return "stopped at its deadline" if code is None else "done" if code == 0 else f"failed ({code})"

    return work


def _run(words: Sequence[str], output: Path, deadline: float, write: Write) -> int | None:
    """Run a command; return its exit code, or None if it was ended at the deadline."""
    group, written = Group(words, output), time.monotonic()
    try:
        while time.monotonic() < deadline:
            if (code := group.poll()) is not None:
                return code
            if time.monotonic() - written > WRITE_INTERVAL:
                write()
                written = time.monotonic()
            time.sleep(0.05)
        return None
    finally:
        end([group], GRACE) if group.poll() is None else group.kill()
