"""Stages in turn, each with a share of the time that is left; none can lose another's result."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from localsl.measure.gpu.groups import Group, end

GRACE = 5.0  # seconds from SIGINT to SIGKILL
TELL_EVERY = 10.0  # seconds after which figures are written while a stage goes on
LOST = 4  # the exit code of a stage whose device answers no more in its process, but may in another


class Tell(Protocol):
    """Writes what is known so far to where it outlasts the machine."""

    def __call__(self) -> None:
        """Now."""
        ...


@dataclass(frozen=True)
class Stage:
    """Something to do before a deadline.

    Attributes:
        share: of the time left, in proportion to the shares of the stages after it.
        minimum: seconds that the stages before leave it.
        work: does it until the deadline that it is given (of `time.monotonic`), and says how it ended, with
            `done` as the first word if it ended well.
    """

    name: str
    share: float
    minimum: float
    work: Callable[[float, Tell], str]


class Log(Protocol):
    """Is told of the stages."""

    def stage(self, name: str, state: str, seconds: float | None = None) -> None:
        """A stage's state has changed."""
        ...

    def tell(self) -> None:
        """As `Tell`."""
        ...


def limit(stages: Sequence[Stage], left: float) -> float:
    """Seconds of those left for the first of these stages."""
    first, *later = stages
    kept = sum(stage.minimum for stage in later)
    scale = min(1.0, left / (first.minimum + kept))  # where there is too little for all minima
    share = left * first.share / sum(stage.share for stage in stages)
    return min(max(share, first.minimum * scale), left - kept * scale)


def in_turn(stages: Sequence[Stage], deadline: float, log: Log) -> bool:
    """Do them all; whether all ended well."""
    well = True
    for index, stage in enumerate(stages):
        began = time.monotonic()
        seconds = limit(stages[index:], max(0.0, deadline - began))
        log.stage(stage.name, f"running, for at most {seconds:.0f} s")
        state = "stopped"
        try:
            state = stage.work(began + seconds, log.tell)
        except Exception as error:
            traceback.print_exc()
            state = f"failed ({type(error).__name__}: {error})"
        finally:  # of Ctrl-C and SIGTERM too
            log.stage(stage.name, state, time.monotonic() - began)
        well = well and state.startswith("done")
    return well


def command(words: Sequence[str], output: Path, again: Sequence[str] = ()) -> Callable[[float, Tell], str]:
    """The work of a command; where its device is lost it is begun again, with the words `again` added."""

    def work(deadline: float, tell: Tell) -> str:
        output.unlink(missing_ok=True)
        code = _run(words, output, deadline, tell)
        while code == LOST and again:
            code = _run([*words, *again], output, deadline, tell)
        return "stopped at its deadline" if code is None else "done" if code == 0 else f"failed ({code})"

    return work


def _run(words: Sequence[str], output: Path, deadline: float, tell: Tell) -> int | None:
    """The exit code, or None if it was ended at its deadline."""
    group, told = Group(words, output), time.monotonic()
    try:
        while time.monotonic() < deadline:
            if (code := group.poll()) is not None:
                return code
            if time.monotonic() - told > TELL_EVERY:
                tell()
                told = time.monotonic()
            time.sleep(0.05)
        return None
    finally:
        end([group], GRACE) if group.poll() is None else group.kill()
