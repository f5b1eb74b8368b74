"""Hydra's launchers: checks of the choice, concurrent jobs' shares of the machine, and how Ctrl-C stops them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import joblib
import torch
from omegaconf import DictConfig

from localsl.config.composition import field_of
from localsl.core.settings import Problem
from localsl.execution.processes import started

# Set in a worker of joblib by Ctrl-C; the worker then starts no other job. It is not beside `main.job` because joblib
# copies that function's globals for every job.
INTERRUPTED = threading.Event()


@dataclass(frozen=True)
class Machine:
    """The resources that concurrent jobs share on this machine.

    Attributes:
        cores: CPU cores that this process may use, by its affinity and its container's quota.
        gpus: GPUs that are visible to jobs.
        at_once: the number of jobs that run at the same time.
        processes: the number of processes of each job.
        batch: the number of jobs submitted to the launcher at a time; None for all of them.
    """

    cores: int
    gpus: int
    at_once: int
    batch: int | None
    processes: int = 1

    def share(self, typed: Sequence[str], index: int) -> list[str]:
        """The overrides for the threads and the GPU of the job with this index, unless they are typed."""
        keys = {field_of(override) for override in typed}
        running = self.at_once * self.processes
        threads = [] if "threads" in keys else [f"threads={max(1, self.cores // running)}"]
        one_gpu = "device" not in keys and self.gpus >= 2 and self.processes == 1
        return threads + ([f"device=cuda:{index % self.gpus}"] if one_gpu else [])


def machine(hydra: DictConfig, jobs: int) -> Machine | None:
    """How `jobs` jobs share this machine; None if the launcher runs one at a time, or on other machines.

    Args:
        hydra: the configuration of Hydra itself.
    """
    cores, batch = joblib.cpu_count(), hydra.sweeper.get("max_batch_size")
    launcher, chosen = hydra.launcher, hydra.runtime.choices["hydra/launcher"]
    if chosen == "joblib":
        at_once = joblib.effective_n_jobs(launcher.n_jobs)
        return Machine(cores, torch.cuda.device_count(), min(at_once, batch or jobs, jobs), batch)
    if chosen == "submitit_local":  # it has no queue, and starts all jobs that are submitted at once
        several = processes(hydra)
        batch = batch or (
            cores if several == 1 else 1
        )  # a job of several processes uses all GPUs of the machine
        return Machine(cores, launcher.gpus_per_node or 0, min(batch, jobs), batch, several)
    return None


def processes(hydra: DictConfig) -> int:
    """The number of processes that the launcher starts for each job."""
    return (hydra.launcher.get("nodes") or 1) * (hydra.launcher.get("tasks_per_node") or 1)


def problems(hydra: DictConfig, sizes: Iterable[int | None] = ()) -> Iterator[Problem]:
    """Yield the settings with which the launcher fails, starts no jobs, or starts a wrong number of processes.

    Args:
        sizes: the values of `processes` in the configurations of the jobs.
    """
    if started().size > 1:
        instead = "type python run.py -m hydra/launcher=submitit_local"
        yield Problem("-m", "", "torchrun starts a single run", instead)
    several = processes(hydra)
    for size in sorted({size or 1 for size in sizes} - {several}):
        what = f"the launcher starts {several} for each job"
        keys = f"hydra.launcher.tasks_per_node={size} hydra/launcher=submitit_local, or submitit_slurm"
        yield Problem("processes", size, what, f"type {keys if several == 1 else f'processes={several}'}")
    batch = hydra.sweeper.get("max_batch_size")
    if batch is not None and not (isinstance(batch, int) and batch >= 1):
        what = "must be a whole number of at least 1"
        yield Problem("hydra.sweeper.max_batch_size", batch, what, "null leaves the choice to the launcher")
    if hydra.launcher.get("n_jobs") == 0:
        what = "no job would start"
        yield Problem("hydra.launcher.n_jobs", 0, what, "-1 starts one job per core, -2 one fewer")
    if hydra.runtime.choices["hydra/launcher"] == "submitit_slurm" and shutil.which("srun") is None:
        what = "this machine has no srun, and so no SLURM"
        yield Problem(
            "hydra/launcher", "submitit_slurm", what, "run the command on the login node of a cluster"
        )


def in_worker() -> bool:
    """Whether this process is a worker of joblib."""
    return multiprocessing.parent_process() is not None


@contextmanager
def waiting_for_workers() -> Iterator[None]:
    """Let Ctrl-C end the workers of joblib after they have saved their runs; a second one ends them at once.

    A terminal sends SIGINT to all processes. On KeyboardInterrupt joblib would kill the workers, which then resume
    from their last epoch instead of their last step.

    Raises:
        KeyboardInterrupt: at the end, if there was a Ctrl-C.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)
        os.write(2, b"\nwaiting until all jobs have saved their runs (a second Ctrl-C stops them at once)\n")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if noted:
        raise KeyboardInterrupt
