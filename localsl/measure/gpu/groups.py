"""Commands in process groups of their own, so that each can be ended with all of its children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
KILL_TIMEOUT = 1.0  # seconds to wait for the kernel to remove killed processes


class Group:
    """A command that runs at the root of the checkout and appends its output to a file."""

    def __init__(self, command: Sequence[str], output: Path):
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("ab") as out, _interruptible():
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
        """Send SIGINT to all processes of the group, as Ctrl-C does."""
        self._send(signal.SIGINT)

    def alive(self) -> bool:
        """Whether any process of the group is left."""
        self.poll()
        return self._send(0)

    def kill(self) -> None:
        """Send SIGKILL to the processes of the group that are left."""
        if self._send(signal.SIGKILL):
            self._process.wait()
            _wait_until(lambda: not self.alive(), KILL_TIMEOUT)

    def _send(self, number: int) -> bool:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
            return True
        return False


def end(groups: Sequence[Group], grace: float) -> None:
    """Interrupt the groups, and kill what is left of them after `grace` seconds."""
    for group in groups:
        group.interrupt()
    _wait_until(lambda: not any(group.alive() for group in groups), grace)
    for group in groups:
        group.kill()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let processes that are started now react to SIGINT, which a shell has its background commands ignore."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.05)
