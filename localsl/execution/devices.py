"""Preparing a network and the process for a configuration: device, threads, memory layout, compilation, cuDNN."""

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
from localsl.execution.heap import keep_freed
from localsl.execution.processes import started


class Execution(Protocol):
    """The settings of a step's execution; `Config` has them under the same names."""

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
        """The number of processes that share every batch."""
        ...


def chosen(name: str) -> torch.device:
    """The device for `cfg.device`; each of several processes on a node has its own GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and started().size > 1:
        return torch.device("cuda", started().local_rank % torch.cuda.device_count())
    return torch.device(name)


@cache
def _default_threads() -> int:
    """torch's own choice, cached before the number of threads is first changed."""
    return torch.get_num_threads()


def threads(cfg: Execution) -> int:
    """The number of CPU threads that a configuration uses."""
    default = _default_threads()
    return cfg.threads or default


def use_threads(cfg: Execution) -> None:
    """Set the number of CPU threads; without `cfg.threads` it is torch's, whatever an earlier job set."""
    count = threads(cfg)
    if count != torch.get_num_threads():
        torch.set_num_threads(count)


def layout(cfg: Execution) -> torch.memory_format:
    """The memory format of images and convolutions."""
    return torch.channels_last if cfg.channels_last else torch.contiguous_format


def place(network: Learner, cfg: Execution, device: torch.device) -> None:
    """Move a network to its device and memory format, and set up its BatchNorm and compilation as configured."""
    network.to(device=device, memory_format=layout(cfg))  # pyright: ignore[reportCallIssue]
    if cfg.sync_batchnorm:
        _synchronise(network)
    if cfg.compile and isinstance(network, LocalNetwork):
        network.path_losses = Compiled(cfg.batch_size // cfg.replicas)


def _synchronise(network: Learner) -> None:
    """Turn every BatchNorm into a SyncBatchNorm, in place, since objectives and momentum layers refer to them."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = nn.SyncBatchNorm
            module.__dict__["process_group"] = None  # all processes


def graphs(cfg: Execution) -> Graphs | None:
    """The recorder of training steps for `cfg.cuda_graph`, else None."""
    return Graphs() if cfg.cuda_graph else None


def prepare(device: torch.device, deterministic: bool = False, tf32: bool = True) -> None:
    """Configure a CPU's allocator, or cuDNN as the released code does: the fastest of its deterministic algorithms.

    Args:
        device: the device of the run. On a CPU only the allocator is prepared.
        deterministic: use the same algorithms in every process, for operations outside cuDNN too; torch warns of
            operations that have no deterministic algorithm.
        tf32: let fp32 convolutions round to TF32, as torch and the released code do by default. Matrix products use
            full fp32, which is torch's default.
    """
    if device.type == "cpu":
        keep_freed()
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # streams and graphs use the current device
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = tf32
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
