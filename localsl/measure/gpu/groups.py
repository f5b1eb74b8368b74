"""A command in a process group of its own, so that it can be ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
KILLED = 1.0  # seconds in which the kernel takes away what was killed


class Group:
    """A command that runs at the root of the checkout, its output in a file."""

    def __init__(self, command: Sequence[str], output: Path):
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("ab") as out:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """The exit code, or None while the command runs."""
        return self._process.poll()

    def interrupt(self) -> None:
        """SIGINT to all of it, as Ctrl-C."""
        self._send(signal.SIGINT)

    def alive(self) -> bool:
        """Whether any process of it is left."""
        self.poll()
        return self._send(0)

    def kill(self) -> None:
        """SIGKILL to whatever is left of it."""
        if self._send(signal.SIGKILL):
            self._process.wait()
            _until(lambda: not self.alive(), KILLED)

    def _send(self, number: int) -> bool:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
            return True
        return False


def end(groups: Sequence[Group], grace: float) -> None:
    """Interrupt them all, and kill what is left after the grace."""
    for group in groups:
        group.interrupt()
    _until(lambda: not any(group.alive() for group in groups), grace)
    for group in groups:
        group.kill()


def _until(holds: Callable[[], bool], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not holds() and time.monotonic() < limit:
        time.sleep(0.05)
