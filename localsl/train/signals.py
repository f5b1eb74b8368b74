"""Graceful stop: SIGTERM and SIGINT become requests that training grants at the next safe point."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """A request to stop, and whether it is granted.

    Attributes:
        asked: the number of the signal that asked for it; None so far.
        granted: whether training has reached a safe point and ends.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.granted = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: the first signal is only noted, since it may interrupt anything; a second one ends."""
        if self.asked is not None:
            self.end()
        self.asked = number
        # print is not safe in a signal handler.
        os.write(2, b"\nstopping after this step (a second signal stops at once)\n")

    def grant(self, number: int) -> None:
        """End at a safe point because of signal `number`, which may have reached another process."""
        self.asked, self.granted = number, True
        self.end()

    def end(self) -> None:
        """End as the signal demands: by KeyboardInterrupt for SIGINT, with exit code 143 for SIGTERM."""
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self.asked is not None:
            sys.exit(128 + self.asked)


@contextmanager
def handled_by(stop: Stop) -> Iterator[Stop]:
    """Let `stop` handle both signals in this context."""
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # Python sets handlers in the main thread only
        yield stop
        return
    before = [signal.signal(number, stop.ask) for number in SIGNALS]
    try:
        yield stop
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
