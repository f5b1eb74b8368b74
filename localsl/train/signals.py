"""SIGTERM and SIGINT as requests that training grants at the next safe point."""

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
    """Whether somebody asked the process to stop.

    Attributes:
        asked: the signal's number, or None.
        granted: whether training has come to its safe point, and ends.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.granted = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """The handler: nothing is written in it, since it may interrupt anything. The second signal acts."""
        if self.asked is not None:
            self.obey()
        self.asked = number
        os.write(2, b"\nstopping after this step (again: at once)\n")  # print is not for signal handlers

    def grant(self, number: int) -> None:
        """End at a safe point, as this signal asks: of several processes another may have got it."""
        self.asked, self.granted = number, True
        self.obey()

    def obey(self) -> None:
        """End as the signal asks: KeyboardInterrupt for SIGINT, exit code 143 for SIGTERM."""
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self.asked is not None:
            sys.exit(128 + self.asked)


@contextmanager
def heeded(stop: Stop) -> Iterator[Stop]:
    """It hears both signals inside; in a thread, where Python hears none, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = [signal.signal(number, stop.ask) for number in SIGNALS]
    try:
        yield stop
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
