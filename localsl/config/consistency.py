"""Values that are right one by one and do not go together, whatever the rule."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from localsl.config.command import KINDS, Command
from localsl.config.schema import Config
from localsl.core.settings import Problem
from localsl.methods.base import Method

LONGEST_TAG = 64


def problems(config: Command, here: int) -> Iterator[Problem]:
    """All of them; `here` is the number of processes that was started."""
    yield from _optimizer_problems(config)
    yield from _processes_problems(config, here)
    yield from _device_problems(config.device)
    yield from _fast_path_problems(config)
    yield from _analysis_problems(config)
    yield from _logger_problems(config)
    if config.sweep is not None:
        yield Problem("sweep", config.sweep, "a table is many runs", "add -m")


def _optimizer_problems(config: Config) -> Iterator[Problem]:
    if config.optimizer.nesterov and config.optimizer.momentum == 0:
        what = "Nesterov needs a momentum above 0"
        yield Problem("optimizer.momentum", 0, what, "or type optimizer.nesterov=false")
    if config.optimizer.nesterov and config.optimizer.name == "adam":
        yield Problem(
            "optimizer.nesterov", True, "is SGD's", "type optimizer=adam, or optimizer.nesterov=false"
        )
    if config.schedule.decay != 1 and not config.schedule.milestones:
        what = "is by how much the learning rate falls at milestones, and there are none"
        yield Problem(
            "schedule.decay", config.schedule.decay, what, "type schedule.milestones=[...], or schedule.decay=1"
        )


def _processes_problems(config: Command, here: int) -> Iterator[Problem]:
    """What several processes cannot do together."""
    size = config.processes or here
    if here > 1 and size != here:
        yield Problem("processes", size, f"{here} were started", "leave it out")
    if size == 1:
        return
    parts = config.replicas
    if config.batch_size % parts or config.batch_size < 2 * parts:
        what = f"{size} processes take equal parts of a batch, of two images or more"
        near = size * max(2, round(config.batch_size / size))
        yield Problem("batch_size", config.batch_size, what, f"type batch_size={near}")
    if re.fullmatch(r"cuda:\d+", config.device):
        yield Problem("device", config.device, f"{size} processes have a GPU each", "type device=cuda")
    if config.cuda_graph:
        yield Problem("cuda_graph", True, "is for one process", "type cuda_graph=false")
    on_cpu = config.device == "cpu" or (here > 1 and not torch.cuda.is_available())
    if config.sync_batchnorm and parts == 1:
        what = "is for parts of a batch, and parallel=modules has whole ones"
        yield Problem("sync_batchnorm", True, what, "type sync_batchnorm=false")
    elif config.sync_batchnorm and on_cpu:
        yield Problem("sync_batchnorm", True, "is for GPUs", "type sync_batchnorm=false")
    if config.sync_batchnorm and config.memory == "lean":
        yield Problem("memory", "lean", "cannot make synchronised BatchNorm again", "type memory=plain")
    if config.measure == "speed":  # an overhead is a table's, and of one process whatever is typed beside it
        instead = "type python run.py, without torchrun" if here > 1 else "leave processes out"
        yield Problem("measure", "speed", "is of one process", instead)
    for key, value in (("analysis", config.analysis.kind), ("show", config.show)):
        if here > 1 and value not in (None, "none"):
            yield Problem(key, value, "is for one process", "type python run.py, without torchrun")


def _fast_path_problems(config: Config) -> Iterator[Problem]:
    """What of the ways to execute a step does not go together."""
    if config.compile and config.memory == "lean":
        what = "a compiled step decides itself what it makes again"
        yield Problem("memory", "lean", what, "type memory=plain or compile=false")
    if config.cuda_graph and not _on_gpu(config):
        yield Problem("cuda_graph", True, "is for CUDA devices", "type cuda_graph=false")


def _on_gpu(config: Config) -> bool:
    return config.device.startswith("cuda") or (config.device == "auto" and torch.cuda.is_available())


def fastest(config: Config, method: Method) -> dict[str, bool]:
    """What `fast` sets: nothing but ways to execute a step that leave its numbers alone but for rounding.

    On an H200 a recorded step took two thirds (MLAAN, batch 1024) to a sixth (MAN, batch 128) of the time of one
    before the recording, estimated from the warm-up. Compiling is left out: a minute and more for one network.
    """
    recordable = _on_gpu(config) and config.processes == 1 and not method.checkpoint_segments(1)
    return {"channels_last": True, "cuda_graph": recordable}


def recomputation_problems(config: Config, segments: int) -> Iterator[Problem]:
    """Other ways to recompute activations beside those of a rule that does so in segments."""
    for key, other in (("memory", "lean"), ("compile", True), ("cuda_graph", True)):
        if segments and getattr(config, key) == other:
            what = f"{config.method.name} is a way of its own to recompute activations"
            yield Problem(key, other, what, "type method=bp")


def _analysis_problems(config: Command) -> Iterator[Problem]:
    if config.runs and config.analysis.kind == "none":
        what = "are read by an analysis only"
        yield Problem("runs", f"[{','.join(config.runs)}]", what, f"type analysis={'|'.join(KINDS[1:])} too")
    if config.measure is not None and config.analysis.kind != "none":
        what = "a measurement and an analysis are one each"
        yield Problem("measure", config.measure, what, "leave measure or analysis out")
    if config.checkpoint.required and config.checkpoint.every is None:
        what = "this run is made for its checkpoint"
        yield Problem("checkpoint.every", None, what, "type a number of epochs")


def _logger_problems(config: Config) -> Iterator[Problem]:
    for tag in config.logger.tags:
        if not 1 <= len(tag) <= LONGEST_TAG:
            yield Problem(
                "logger.tags", tag, f"W&B takes tags of 1 to {LONGEST_TAG} letters", "type a shorter one"
            )


def _device_problems(device: str) -> Iterator[Problem]:
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if not match:
        yield Problem("device", device, "one of auto, cpu, cuda, cuda:0, cuda:1, ...")
    elif device.startswith("cuda") and int(match[1] or 0) >= torch.cuda.device_count():
        what = f"this machine has {torch.cuda.device_count()} CUDA devices that torch can use"
        yield Problem("device", device, what, "type device=cpu")
