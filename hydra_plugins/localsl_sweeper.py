"""Hydra's sweeper for this project: tables by `sweep=`, comma lists as ever, a plain word on what failed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from localsl.tables import sweeps
from localsl.tables.sweeps import Job


class LocalslSweeper(Sweeper):
    """Expands a command line to jobs and gives them to whichever launcher was chosen.

    A job that another process is at is left to it, and looked at again at the end. A job that fails does not
    stop the others; the process then ends with 1.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self._launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._parallel = config.hydra.launcher.get("n_jobs")

    def sweep(self, arguments: list[str]) -> Any:
        """Run every job of these overrides."""
        jobs = sweeps.jobs(arguments)
        returns = self._launch([[*self._typed(job, index), "held=skip"] for index, job in enumerate(jobs)], 0)
        held = [job for job, r in zip(jobs, returns, strict=True) if _ended(r) and r.return_value == "held"]
        returns += self._launch([self._typed(job, index) for index, job in enumerate(held)], len(jobs))
        failed = [(r, e) for r in returns if (e := _error(r)) is not None]
        for job, error in failed:
            overrides = " ".join(o for o in job.overrides or [] if not o.startswith(("held=", "logger.tags=")))
            print(f"failed: {overrides}\n  {type(error).__name__}: {error}", file=sys.stderr)
        if failed:
            print(f"{len(failed)} of {len(jobs)} jobs failed", file=sys.stderr)
            sys.exit(1)
        return returns

    def _launch(self, jobs: list[list[str]], first: int) -> list[JobReturn]:
        if not jobs:
            return []
        try:
            return list(self._launcher.launch(jobs, initial_job_idx=first))
        except (
            Exception
        ) as error:  # a job that was killed from outside takes joblib's or submitit's launch with it
            print(f"the launcher ended: {type(error).__name__}: {error}", file=sys.stderr)
            print("the same command goes on with what is not done", file=sys.stderr)
            sys.exit(1)

    def _typed(self, job: Job, index: int) -> list[str]:
        """A job's overrides, with its tables as tags and, where several run at once, a share of the machine."""
        typed = job.typed
        if job.tables and not any(override.startswith("logger.tags=") for override in typed):
            papers = sorted({table.split("/")[0] for table in job.tables})
            typed.append(f"logger.tags=[{','.join([*papers, *job.tables])}]")
        return typed + _share(typed, index, self._parallel)


def _share(typed: Sequence[str], index: int, parallel: int | None) -> list[str]:
    """Threads and GPU of one of `parallel` jobs at once (joblib's n_jobs, -1 for one a core), unless typed."""
    if parallel is None:
        return []
    import torch

    cores, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    at_once = cores if parallel < 0 else parallel
    keys = [override.split("=")[0] for override in typed]
    share = [] if "threads" in keys else [f"threads={max(1, cores // at_once)}"]
    return share + ([] if "device" in keys or gpus < 2 else [f"device=cuda:{index % gpus}"])


def _ended(job: JobReturn) -> bool:
    return job.status == JobStatus.COMPLETED


def _error(job: JobReturn) -> Exception | None:
    return None if _ended(job) else job._return_value  # the public property would raise it


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="localsl",
    node={"_target_": "hydra_plugins.localsl_sweeper.LocalslSweeper"},
    provider="localsl",
)
