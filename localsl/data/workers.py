"""Worker processes that read ahead of the device: how many there are, and how they start and stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import joblib
import torch
from torch.utils.data import DataLoader, Dataset

from localsl.core.settings import LocalslError
from localsl.execution.processes import started


def workers(chosen: int | None) -> int:
    """The number of worker processes: `chosen`, or this process's share of the available cores if that is None."""
    if chosen is not None:
        return chosen
    exclusive = "SLURM_CPUS_PER_TASK" in os.environ  # Slurm gives every process cores of its own
    return max(1, joblib.cpu_count() // (1 if exclusive else started().local_size))


class ReadAhead:
    """What a dataset returns for each of a list of requests, in their order, read ahead by worker processes.

    A dataset's `__getitems__` takes one request, and returns what it asks for or a message if a file is broken. The
    workers start with the first request and run until `close`.
    """

    def __init__(self, dataset: Dataset, count: int, requests: int, pinned: bool = False):
        """`count` workers, 0 for none, together read `requests` requests ahead, or two each if that is more."""
        self._requests: list[Any] = []
        options: dict[str, Any] = {}
        if count:
            options = {"prefetch_factor": max(2, -(-requests // count)), "persistent_workers": True}
        self._loader = DataLoader(
            dataset,
            batch_sampler=self._requests,
            num_workers=count,
            collate_fn=_unchanged,
            pin_memory=pinned,
            worker_init_fn=_init_worker,
            generator=torch.Generator(),  # the loader would otherwise draw from the generator that training uses
            **options,
        )

    def __call__(self, requests: Sequence[Any]) -> Iterator[Any]:
        """Yield what each request asks for.

        Raises:
            LocalslError: naming a file that can no longer be decoded.
        """
        self._requests[:] = requests
        for found in self._loader if requests else ():
            if isinstance(found, str):
                raise LocalslError(
                    f"{found}; it broke during the run: repair it and repeat the command to resume"
                )
            yield found

    def close(self) -> None:
        """Stop the workers; another call would start new ones."""
        running: Any = self._loader._iterator
        if running is not None:
            # torch would stop them when the iterator is garbage-collected, which a traceback can delay.
            running._shutdown_workers()
            self._loader._iterator = None


def _unchanged(decoded: Any) -> Any:
    """A collate function for workers that return complete batches."""
    return decoded


def _init_worker(worker: int) -> None:
    """Make a worker ignore SIGINT, and SIGTERM unless its parent sends it.

    A signal that stops a run may reach all its processes. The parent alone decides when to stop: it ends its workers
    through their queues or, when Python exits, by SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_with, args=[os.getppid()], daemon=True).start()


def _exit_with(parent: int) -> None:
    """Exit at a SIGTERM from the parent, and ignore others."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
