"""Executes a configuration: trains a run, or shows, measures or analyses something in its place."""

from __future__ import annotations

from typing import Any

import torch

from localsl.config.building import method_of
from localsl.config.command import Command
from localsl.config.schema import Config
from localsl.core.settings import ConfigError, LocalslError
from localsl.execution import processes
from localsl.runs import display, experiment, stored, tasks


def run(cfg: Command) -> dict[str, Any] | None:
    """Execute a configuration.

    Returns:
        The record of a run or of a measurement; None if something was only shown, and in all processes but the one
        that measures.

    Raises:
        ConfigError: if the data set or an analysed run is not available, or the network cannot process images of this
            size.
        Diverged: if a module's loss stops being finite.
    """
    if cfg.show == "modules":
        print(experiment.describe(cfg, tasks.described(cfg)))
        return None
    misfits = list(cfg.backbone.misfits(cfg.dataset.image_size)) if cfg.analysis.kind == "none" else []
    if misfits:
        raise ConfigError(misfits)
    if cfg.measure is not None:
        from localsl.measure import runner

        # If a launcher started several processes for this job, only one of them measures.
        return runner.run(cfg) if processes.started().rank == 0 else None
    if cfg.analysis.kind != "none":
        from localsl.analysis import runner

        return runner.run(cfg)
    try:
        return experiment.run(cfg, cfg.held)
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(cfg) from error


def listing(cfg: Command) -> str | None:
    """What `show=` lists of OUTPUT_DIR, whatever else is typed; None if it asks for something else."""
    if cfg.show == "runs":
        runs = stored.found_runs(cfg.output_dir)
        return display.summary(runs, stored.distinctions(runs))
    if cfg.show == "bench":
        from localsl.measure.bench import bench  # imported here because a training run does not need it

        return bench(cfg)
    if cfg.show == "pipeline":
        from localsl.tables import scaling

        return scaling.show(cfg)
    return None


def _out_of_memory(cfg: Config) -> LocalslError:
    """An error that states the memory needed by a step, and the settings that reduce it."""
    if cfg.task.name == "detection":
        return LocalslError(
            f"out of memory in a training step: lower batch_size={cfg.batch_size} or detector.rois"
        )
    from localsl.measure.footprint import footprint

    need = f"a step needs {footprint(cfg).peak / 2**30:.2f} GiB, without data set and workspaces"
    excludes_lean = cfg.compile or cfg.sync_batchnorm or method_of(cfg).checkpoint_segments(1)
    savings = [] if cfg.memory == "lean" or excludes_lean else ["memory=lean"]
    savings += [] if cfg.optimizer.per_module else ["optimizer.per_module=true"]
    lower = f"lower batch_size={cfg.batch_size}" + (f", or type {', '.join(savings)}" if savings else "")
    return LocalslError(f"out of memory in a training step ({need}): {lower}")
