"""Conflicts between values that are each valid alone, whatever the rule."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from localsl.config.command import KINDS, Command
from localsl.config.schema import Config
from localsl.core.settings import Problem
from localsl.methods.base import Method

LONGEST_TAG = 64


def problems(config: Command, launched: int) -> Iterator[Problem]:
    """Yield every conflict; `launched` is the number of processes that the launcher started."""
    yield from _optimizer_problems(config)
    yield from _processes_problems(config, launched)
    yield from _device_problems(config.device)
    yield from _fast_path_problems(config)
    yield from _analysis_problems(config)
    yield from _logger_problems(config)
    if config.sweep is not None:
        yield Problem("sweep", config.sweep, "a sweep consists of several runs", "add -m")


def _optimizer_problems(config: Config) -> Iterator[Problem]:
    if config.optimizer.nesterov and config.optimizer.momentum == 0:
        what = "Nesterov needs a momentum above 0"
        yield Problem("optimizer.momentum", 0, what, "or type optimizer.nesterov=false")
    if config.optimizer.nesterov and config.optimizer.name == "adam":
        yield Problem(
            "optimizer.nesterov",
            True,
            "applies to SGD only",
            "type optimizer=adam, or optimizer.nesterov=false",
        )
    if config.schedule.decay != 1 and not config.schedule.milestones:
        what = "multiplies the learning rate at milestones, and there are none"
        yield Problem(
            "schedule.decay", config.schedule.decay, what, "type schedule.milestones=[...], or schedule.decay=1"
        )


def _processes_problems(config: Command, launched: int) -> Iterator[Problem]:
    """Yield the settings that several processes cannot use together."""
    size = config.processes or launched
    if launched > 1 and size != launched:
        yield Problem("processes", size, f"{launched} were started", "leave it out")
    if size == 1:
        return
    replicas = config.replicas
    if config.batch_size % replicas or config.batch_size < 2 * replicas:
        what = f"{size} processes need equal parts of a batch, each of at least two images"
        near = size * max(2, round(config.batch_size / size))
        yield Problem("batch_size", config.batch_size, what, f"type batch_size={near}")
    if re.fullmatch(r"cuda:\d+", config.device):
        yield Problem("device", config.device, f"{size} processes use one GPU each", "type device=cuda")
    if config.cuda_graph:
        yield Problem("cuda_graph", True, "works in a single process only", "type cuda_graph=false")
    on_cpu = config.device == "cpu" or (launched > 1 and not torch.cuda.is_available())
    if config.sync_batchnorm and replicas == 1:
        what = "has no effect with parallel=modules, where each process sees the whole batch"
        yield Problem("sync_batchnorm", True, what, "type sync_batchnorm=false")
    elif config.sync_batchnorm and on_cpu:
        yield Problem("sync_batchnorm", True, "needs GPUs", "type sync_batchnorm=false")
    if config.sync_batchnorm and config.memory == "lean":
        yield Problem("memory", "lean", "cannot recompute synchronised BatchNorm", "type memory=plain")
    # measure=overhead always runs in one process, because its result enters a table.
    if config.measure == "speed":
        instead = "type python run.py, without torchrun" if launched > 1 else "leave processes out"
        yield Problem("measure", "speed", "runs in a single process", instead)
    for key, value in (("analysis", config.analysis.kind), ("show", config.show)):
        if launched > 1 and value not in (None, "none"):
            yield Problem(key, value, "runs in a single process", "type python run.py, without torchrun")


def _fast_path_problems(config: Config) -> Iterator[Problem]:
    """Yield the conflicts between ways to execute a step."""
    if config.compile and config.memory == "lean":
        what = "the compiler decides which activations are recomputed"
        yield Problem("memory", "lean", what, "type memory=plain or compile=false")
    if config.cuda_graph and not _on_gpu(config):
        yield Problem("cuda_graph", True, "needs a CUDA device", "type cuda_graph=false")


def _on_gpu(config: Config) -> bool:
    return config.device.startswith("cuda") or (config.device == "auto" and torch.cuda.is_available())


def fastest(config: Config, method: Method) -> dict[str, bool]:
    """The settings of `fast=true`, which change a step's numbers by rounding at most.

    On an H200, replaying a CUDA graph took between two thirds (MLAAN, batch 1024) and a sixth (MAN, batch 128) of
    the time of an eager step, as estimated from the warm-up. Compilation is left out because it takes a minute or
    more per network.
    """
    recordable = _on_gpu(config) and config.processes == 1 and not method.checkpoint_segments(1)
    return {"channels_last": True, "cuda_graph": recordable}


def recomputation_problems(config: Config, segments: int) -> Iterator[Problem]:
    """Yield the settings that recompute activations in a rule that already does so in segments."""
    for key, conflicting in (("memory", "lean"), ("compile", True), ("cuda_graph", True)):
        if segments and getattr(config, key) == conflicting:
            what = f"{config.method.name} recomputes activations in its own way"
            yield Problem(key, conflicting, what, "type method=bp")


def _analysis_problems(config: Command) -> Iterator[Problem]:
    if config.runs and config.analysis.kind == "none":
        what = "are used by an analysis only"
        yield Problem("runs", f"[{','.join(config.runs)}]", what, f"type analysis={'|'.join(KINDS[1:])} too")
    if config.measure is not None and config.analysis.kind != "none":
        what = "a measurement and an analysis cannot be combined"
        yield Problem("measure", config.measure, what, "leave measure or analysis out")
    if config.checkpoint.required and config.checkpoint.every is None:
        what = "checkpoint.required=true needs checkpoints"
        yield Problem("checkpoint.every", None, what, "type a number of epochs")


def _logger_problems(config: Config) -> Iterator[Problem]:
    for tag in config.logger.tags:
        if not 1 <= len(tag) <= LONGEST_TAG:
            yield Problem(
                "logger.tags", tag, f"W&B allows tags of 1 to {LONGEST_TAG} characters", "type a shorter one"
            )


def _device_problems(device: str) -> Iterator[Problem]:
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if not match:
        yield Problem("device", device, "one of auto, cpu, cuda, cuda:0, cuda:1, ...")
    elif device.startswith("cuda") and int(match[1] or 0) >= torch.cuda.device_count():
        what = f"torch finds {torch.cuda.device_count()} CUDA devices on this machine"
        yield Problem("device", device, what, "type device=cpu")
