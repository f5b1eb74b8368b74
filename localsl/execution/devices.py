"""Where and how a configuration runs: device, memory layout, compiled, recorded."""

from __future__ import annotations

import os
from functools import cache
from typing import Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from localsl.core.learner import Learner
from localsl.core.network import LocalNetwork
from localsl.execution.compiled import Compiled
from localsl.execution.graphs import Graphs
from localsl.execution.processes import started


class Execution(Protocol):
    """How a step is executed; a run's configuration has these values, under the same names."""

    batch_size: int
    threads: int | None
    precision: str
    channels_last: bool
    memory: str
    compile: bool
    cuda_graph: bool
    sync_batchnorm: bool

    @property
    def replicas(self) -> int:
        """How many processes take a part of every batch each."""
        ...


def chosen(name: str) -> torch.device:
    """The device of `cfg.device`; of several processes each has a GPU of its node."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and started().size > 1:
        return torch.device("cuda", started().local_rank % torch.cuda.device_count())
    return torch.device(name)


@cache
def _own_threads() -> int:
    """As many as torch takes by itself: to be asked before it is told another number."""
    return torch.get_num_threads()


def threads(cfg: Execution) -> int:
    """How many a configuration's work takes."""
    own = _own_threads()
    return cfg.threads or own


def use_threads(cfg: Execution) -> None:
    """Take as many: where none are typed torch's own, whatever the process's job before had."""
    wanted = threads(cfg)
    if wanted != torch.get_num_threads():
        torch.set_num_threads(wanted)


def layout(cfg: Execution) -> torch.memory_format:
    """Of images and convolutions."""
    return torch.channels_last if cfg.channels_last else torch.contiguous_format


def place(network: Learner, cfg: Execution, device: torch.device) -> None:
    """Bring a network to where and how it is trained."""
    network.to(device=device, memory_format=layout(cfg))  # pyright: ignore[reportCallIssue]
    if cfg.sync_batchnorm:
        _synchronise(network)
    if cfg.compile and isinstance(network, LocalNetwork):
        network.path_losses = Compiled(cfg.batch_size // cfg.replicas)


def _synchronise(network: Learner) -> None:
    """Make every BatchNorm one over all processes, in place: objectives and momentum layers refer to them."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = nn.SyncBatchNorm
            module.__dict__["process_group"] = None  # all of them


def graphs(cfg: Execution) -> Graphs | None:
    """What records and replays training steps, if they are to be."""
    return Graphs() if cfg.cuda_graph else None


def prepare(device: torch.device, deterministic: bool = False, tf32: bool = True) -> None:
    """cuDNN as in the released code: the fastest algorithms among the deterministic ones.

    With `deterministic` the same algorithms in every process, cuDNN's and all others; torch warns of operations
    that have none. Without `tf32` convolutions of fp32 keep all its bits; torch has it on, and so do the papers'
    codes. Matrix products keep them by torch's default.
    """
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # streams and graphs are the present device's
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = tf32
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
