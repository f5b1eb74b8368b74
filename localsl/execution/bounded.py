"""Function calls in separate processes, a few at a time, with limits on memory and time.

Processes are forked from a server that has imported the required modules and has computed nothing, so they start in
milliseconds. The memory limit is on writable mappings (RLIMIT_DATA): an allocation beyond it fails, whereas exceeding
a limit on resident memory would kill the process. macOS does not count mapped memory and so ignores the limit.
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

# Seconds between checks. If more time passes, this process was stopped or the machine slept, and the extra time does
# not count towards the time limit of calls.
INTERVAL = 1.0

# Messages of failed allocations, by torch on a CPU and by C++.
OUT_OF_MEMORY = ("can't allocate memory", "bad_alloc", "Cannot allocate memory", "out of memory")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a call.

    Attributes:
        value: the returned value; None if the call failed.
        failure: one line on why it failed; None if it did not.
        out_of_memory: whether it failed for lack of memory.
        seconds: processor time of the process; elapsed time if it was killed.
        peak: peak resident memory of the process in bytes; 0 if it was killed.
        trace: the traceback of the error that ended it, if any.
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
    """Call a function with each argument; yield the argument's position and the outcome as calls end.

    Closing the iterator kills processes that still run.

    Args:
        function: a function at the top level of a module.
        at_once: the number of processes that run at the same time.
        memory: memory limit of a process, in bytes.
        seconds: time limit of a process, without time in which this process was stopped.
        imports: modules that are imported once for all processes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*imports, __name__])
    waiting, running = deque(enumerate(arguments)), dict[Connection, _Call]()
    now, last_check = 0.0, time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                position, argument = waiting.popleft()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_call, args=(theirs, function, argument, memory), daemon=True)
                process.start()
                theirs.close()
                running[ours] = _Call(position, process, now)
            ready = set(wait(list(running), INTERVAL))
            passed = time.monotonic() - last_check
            now, last_check = now + min(passed, 2 * INTERVAL), last_check + passed
            for connection, call in list(running.items()):
                reported, taken = connection in ready, now - call.began
                if reported or taken >= seconds:
                    del running[connection]
                    yield call.position, call.ended(connection, reported, taken)
    finally:
        for connection, call in running.items():
            call.kill(connection)


@dataclass(frozen=True)
class _Call:
    """A running call."""

    position: int
    process: Any
    began: float

    def ended(self, connection: Connection, reported: bool, seconds: float) -> Outcome:
        """The outcome after `seconds`, of a call that reported it or whose process died, or else of a timeout."""
        try:
            timeout = Outcome(failure=f"not finished within {seconds:.0f} seconds")
            outcome = connection.recv() if reported else timeout
            if reported:
                self.process.join(10)  # lets it release system resources such as semaphores
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            killed = code == -signal.SIGKILL  # by the kernel, when the machine is out of memory
            outcome = Outcome(failure=f"the process ended {how}", out_of_memory=killed)
        self.kill(connection)
        return outcome if outcome.seconds else replace(outcome, seconds=seconds)

    def kill(self, connection: Connection) -> None:
        """Kill the process if it still runs."""
        self.process.kill()
        self.process.join()
        connection.close()


def _call(connection: Connection, function: Callable, argument: Any, memory: int) -> None:
    """Run in the process: call the function without printing, and send the outcome."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    try:
        outcome = Outcome(value=function(argument))
    except Exception as error:
        memory_error = isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)
        failure = f"{type(error).__name__}: {first_line(error)}"
        outcome = Outcome(failure=failure, out_of_memory=memory_error, trace=traceback.format_exc())
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    connection.send(replace(outcome, seconds=used.ru_utime + used.ru_stime, peak=peak))
