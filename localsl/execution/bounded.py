"""Calls in processes of their own, a few at a time, each of which has a limit of memory and of time.

A process is forked from one that has imported what the calls need and has never computed, so that it starts in
milliseconds. The limit is on what it maps to write (RLIMIT_DATA): an allocation beyond it fails, where a limit on
resident memory could only kill. macOS does not count mapped memory, and so does not enforce it.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from localsl.core.settings import first_line

# Seconds that are waited at a time. A longer pause is one in which this process was stopped too, or the machine
# slept: it is no time of the calls.
SLICE = 1.0

# What allocators say that were refused memory: torch's on a CPU, and C++'s.
REFUSED = ("can't allocate memory", "bad_alloc", "Cannot allocate memory", "out of memory")


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        value: what it returned; None if it failed.
        failure: why it failed, in a line; None if it did not.
        out_of_memory: whether it failed for want of memory.
        seconds: of the processor that it took; of a process that was killed the time that it was there.
        peak: most resident memory of the process, in bytes; 0 where it was killed.
        trace: the traceback of the error that it ended with.
    """

    value: Any = None
    failure: str | None = None
    out_of_memory: bool = False
    seconds: float = 0.0
    peak: int = 0
    trace: str = ""


def call_each(
    function: Callable[[Any], Any],
    arguments: Sequence[Any],
    at_once: int,
    memory: int,
    seconds: float,
    imports: Sequence[str] = (),
) -> Iterator[tuple[int, Outcome]]:
    """Call a function of a module with each argument; yields the argument's position and the outcome, as calls end.

    Processes that are still at work are killed where the iterator is closed.

    Args:
        memory: bytes that a process may take.
        seconds: after which it is killed, not counting those in which this process was stopped.
        imports: modules that are imported once for all.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*imports, __name__])
    left, running = deque(enumerate(arguments)), dict[Connection, _Call]()
    now, before = 0.0, time.monotonic()
    try:
        while left or running:
            while left and len(running) < at_once:
                position, argument = left.popleft()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_call, args=(theirs, function, argument, memory), daemon=True)
                process.start()
                theirs.close()
                running[ours] = _Call(position, process, now)
            ready = set(wait(list(running), SLICE))
            passed = time.monotonic() - before
            now, before = now + min(passed, 2 * SLICE), before + passed
            for connection, call in list(running.items()):
                told, taken = connection in ready, now - call.began
                if told or taken >= seconds:
                    del running[connection]
                    yield call.position, call.ended(connection, told, taken)
    finally:
        for connection, call in running.items():
            call.kill(connection)


@dataclass(frozen=True)
class _Call:
    """A call at work."""

    position: int
    process: Any
    began: float

    def ended(self, connection: Connection, told: bool, seconds: float) -> Outcome:
        """Its outcome once it has told it, has died, or is out of time, after so many seconds."""
        try:
            outcome = connection.recv() if told else Outcome(failure=f"no end within {seconds:.0f} seconds")
            if told:
                self.process.join(10)  # so that it puts away what it has of the system's
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            killed = code == -signal.SIGKILL  # by the kernel of a machine that is out of memory
            outcome = Outcome(failure=f"the process ended {how}", out_of_memory=killed)
        self.kill(connection)
        return outcome if outcome.seconds else replace(outcome, seconds=seconds)

    def kill(self, connection: Connection) -> None:
        """End the process, if it has not ended."""
        self.process.kill()
        self.process.join()
        connection.close()


def _call(connection: Connection, function: Callable, argument: Any, memory: int) -> None:
    """What a process does: call, and send the outcome. Nothing that is printed meanwhile is shown."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    within = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (within, hard))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        outcome = Outcome(value=function(argument))
    except Exception as error:
        refused = isinstance(error, MemoryError) or any(text in str(error) for text in REFUSED)
        failure = f"{type(error).__name__}: {first_line(error)}"
        outcome = Outcome(failure=failure, out_of_memory=refused, trace=traceback.format_exc())
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    connection.send(replace(outcome, seconds=used.ru_utime + used.ru_stime, peak=peak))
