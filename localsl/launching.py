"""Hydra's launchers: what is wrong with a choice, how many jobs run at once, and what share each gets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import joblib
import torch
from omegaconf import DictConfig

from localsl.schema import Problem
from localsl.tables.sweeps import field_of


@dataclass(frozen=True)
class Machine:
    """What jobs that run beside each other on this machine share.

    Attributes:
        cores: as many as this process may use, by its affinity and its container's quota.
        gpus: as many as jobs see.
        at_once: jobs that run at the same time.
        batch: jobs that are given to the launcher at a time; None is all of them.
    """

    cores: int
    gpus: int
    at_once: int
    batch: int | None

    def share(self, typed: Sequence[str], index: int) -> list[str]:
        """Threads and GPU of the job with this index, unless typed."""
        keys = {field_of(override) for override in typed}
        threads = [] if "threads" in keys else [f"threads={max(1, self.cores // self.at_once)}"]
        return threads + ([] if "device" in keys or self.gpus < 2 else [f"device=cuda:{index % self.gpus}"])


def machine(hydra: DictConfig, jobs: int) -> Machine | None:
    """How this many jobs share the machine; None where the launcher runs one at a time, or runs them elsewhere.

    Args:
        hydra: Hydra's own configuration.
    """
    cores, batch = joblib.cpu_count(), hydra.sweeper.get("max_batch_size")
    launcher, chosen = hydra.launcher, hydra.runtime.choices["hydra/launcher"]
    if chosen == "joblib":
        at_once = joblib.effective_n_jobs(launcher.n_jobs)
        return Machine(cores, torch.cuda.device_count(), min(at_once, batch or jobs, jobs), batch)
    if chosen == "submitit_local":  # it has no queue, and starts all that it is given
        batch = batch or cores
        return Machine(cores, launcher.gpus_per_node or 0, min(batch, jobs), batch)
    return None


def problems(hydra: DictConfig) -> Iterator[Problem]:
    """What would end the launcher, or leave jobs without one."""
    batch = hydra.sweeper.get("max_batch_size")
    if batch is not None and not (isinstance(batch, int) and batch >= 1):
        what = "must be a whole number of at least 1"
        yield Problem("hydra.sweeper.max_batch_size", batch, what, "null leaves it to the launcher")
    if hydra.launcher.get("n_jobs") == 0:
        what = "no job would ever start"
        yield Problem("hydra.launcher.n_jobs", 0, what, "-1 is one a core, -2 one fewer")
    if hydra.runtime.choices["hydra/launcher"] == "submitit_slurm" and shutil.which("srun") is None:
        what = "this machine has no srun, and so no slurm"
        yield Problem("hydra/launcher", "submitit_slurm", what, "type it on a cluster's login node")
