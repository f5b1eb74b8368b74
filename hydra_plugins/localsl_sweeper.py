"""Hydra's sweeper for this project: tables with `sweep=`, lists of values, and a plain report of failed jobs."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from localsl.cli import launching
from localsl.tables import sweeps
from localsl.tables.sweeps import Job


class LocalslSweeper(Sweeper):
    """Expands a command line to jobs and passes them to the chosen launcher.

    A job that another process is running is skipped, and started again at the end. A failed job does not stop the
    others, but the process then ends with exit code 1.
    """

    def __init__(self, max_batch_size: int | None = None):
        self._machine: launching.Machine | None = None
        self._batch = max_batch_size

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Create the launcher. Hydra calls this before `sweep`."""
        self._launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._hydra = config.hydra

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs that the overrides describe."""
        jobs = sweeps.jobs(arguments)
        self._machine = launching.machine(self._hydra, len(jobs))
        if self._machine is not None:
            self._batch = self._machine.batch
        first = sum(job.needed for job in jobs)  # jobs whose results other jobs need come first
        typed = [[*self._typed(job, index), "held=skip"] for index, job in enumerate(jobs)]
        titles = [f"[{index} of {len(jobs)}] {' '.join(job.typed)}" for index, job in enumerate(jobs, start=1)]
        returns = [
            r
            for part in (slice(0, first), slice(first, None))
            for r in self._launch(typed[part], titles[part], part.start)
        ]
        held = [i for i, r in enumerate(returns) if _completed(r) and r.return_value == "held"]
        again = [self._typed(jobs[i], index) for index, i in enumerate(held)]
        returns += self._launch(again, [f"{titles[i]}, again" for i in held], len(jobs))
        failed = [(r, e) for r in returns if (e := _error(r)) is not None]
        for job, error in failed:
            overrides = " ".join(o for o in job.overrides or [] if not o.startswith(("held=", "logger.tags=")))
            print(f"failed: {overrides}\n  {type(error).__name__}: {error}", file=sys.stderr)
        if failed:
            print(f"{len(failed)} of {len(jobs)} jobs failed", file=sys.stderr)
            sys.exit(1)
        return returns

    def _launch(self, jobs: list[list[str]], titles: list[str], first: int) -> list[JobReturn]:
        """Run jobs, and print the title of each before it starts, or before those that run at the same time start."""
        launcher = self._hydra.runtime.choices["hydra/launcher"]
        batch = 1 if launcher == "basic" else self._batch or max(1, len(jobs))
        returns: list[JobReturn] = []
        try:
            for start in range(0, len(jobs), batch):
                part = slice(start, start + batch)
                print("\n".join(titles[part]), flush=True)
                with launching.waiting_for_workers() if launcher == "joblib" else nullcontext():
                    returns += self._launcher.launch(jobs[part], initial_job_idx=first + start)
        except Exception as error:  # a killed job makes the launch call of joblib or submitit fail
            print(f"the launcher failed: {type(error).__name__}: {error}", file=sys.stderr)
            print("the same command continues with the unfinished jobs", file=sys.stderr)
            sys.exit(1)
        return returns

    def _typed(self, job: Job, index: int) -> list[str]:
        """The overrides of a job, with its tables as tags and, if jobs run concurrently, its share of the machine."""
        typed = job.typed
        if job.tables and not any(override.startswith("logger.tags=") for override in typed):
            papers = sorted({table.split("/")[0] for table in job.tables})
            typed.append(f"logger.tags=[{','.join([*papers, *job.tables])}]")
        return typed + (self._machine.share(typed, index) if self._machine else [])


def _completed(job: JobReturn) -> bool:
    return job.status == JobStatus.COMPLETED


def _error(job: JobReturn) -> Exception | None:
    return None if _completed(job) else job._return_value  # the public property would raise the error


# `max_batch_size`, as in Hydra's own sweeper, is the number of jobs that are passed to the launcher at a time.
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="localsl",
    node={"_target_": "hydra_plugins.localsl_sweeper.LocalslSweeper", "max_batch_size": None},
    provider="localsl",
)
