"""The memory of a training step and its composition, traced on tensors without data.

Any network, batch and image size is measured in seconds on any machine. The figure is the peak of live bytes over the
second training step, when momentum exists. A storage counts once, from the operation that returns it until nothing
refers to it. Workspaces of kernels, the allocator's rounding and the data set are not included.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from localsl.config.building import build_network
from localsl.execution import devices
from localsl.measure.fake import FakeRun, fake_run
from localsl.train import optim
from localsl.train.peak_memory import LiveBytes, key
from localsl.train.step import train_step, training_forward

if TYPE_CHECKING:
    from localsl.config.schema import Config


@dataclass(frozen=True)
class Footprint:
    """The composition of the peak in bytes; the parts add up to it.

    Attributes:
        parameters: parameters and buffers.
        gradients: gradients of parameters that exist at that moment.
        optimizer: the state of the optimizer.
        saved: activations kept for the backward pass.
        transient: the rest: the batch, temporary activations, gradients of activations.
        where: the module whose forward or backward pass has the peak, or "update".
    """

    parameters: int
    gradients: int
    optimizer: int
    saved: int
    transient: int
    where: str

    @property
    def peak(self) -> int:
        """The sum of all parts."""
        return self.parameters + self.gradients + self.optimizer + self.saved + self.transient

    @classmethod
    def recorded(cls, figures: dict[str, Any]) -> Footprint:
        """Read a footprint from the figures of a record."""
        parts = {f.name: figures[f"{f.name}_bytes"] for f in fields(cls) if f.name != "where"}
        return cls(**parts, where=figures["where"])


class Census(LiveBytes):
    """Counts live bytes, and at a given peak their composition.

    Attributes:
        parts: bytes by kind at the peak of `at` bytes.
        part_of_step: how many modules the step has finished.
        peak_in: `part_of_step` at the peak.
    """

    def __init__(self, run: FakeRun, at: int | None = None):
        network = run.network
        self._parameters = [t for t in (*network.parameters(), *network.buffers()) if not t.is_meta]
        self._trained = [p for p in network.parameters() if not p.is_meta]
        self._state = [tensor for state in run.optimizer.state.values() for tensor in state.values()]
        self._at, self._saved, self.parts = at, set[int](), dict[str, int]()
        self.part_of_step = self.peak_in = 0
        gradients = [p.grad for p in self._trained if p.grad is not None]  # of the previous step
        super().__init__([*self._parameters, *self._state, *gradients, run.images, run.targets])

    def save(self, tensor: Tensor) -> None:
        """Note that a tensor is kept for the backward pass."""
        self._saved.add(key(tensor))

    def forget(self, this: int) -> None:
        """Stop counting a storage that was freed; a later storage may get its key."""
        super().forget(this)
        self._saved.discard(this)

    def at_peak(self) -> None:
        """Note where the peak is and, if it is `at` bytes, count the live bytes by kind."""
        self.peak_in = self.part_of_step
        if self.peak != self._at:
            return
        gradients = [p.grad for p in self._trained if p.grad is not None]
        kinds = {"parameters": self._parameters, "gradients": gradients, "optimizer": self._state}
        kind_of = {key(tensor): kind for kind, tensors in kinds.items() for tensor in tensors}
        self.parts = dict.fromkeys((*kinds, "saved", "transient"), 0)
        for this, size in self.alive().items():
            self.parts[kind_of.get(this, "saved" if this in self._saved else "transient")] += size


def footprint(cfg: Config, stage: range | None = None) -> Footprint:
    """Trace the memory of a training step on a full batch, or on one process's share of it.

    Args:
        stage: the modules of one of several processes, if they divide the modules.
    """
    with fake_run(cfg, cfg.batch_size // cfg.replicas, stage) as run:
        _step(cfg, run, None)
        first = Census(run)
        _step(cfg, run, first)
        second = Census(run, at=first.peak)
        modules = _step(cfg, run, second)
    where = f"module {modules[second.peak_in]}" if second.peak_in < len(modules) else "update"
    return Footprint(**second.parts, where=where)


def _step(cfg: Config, run: FakeRun, census: Census | None) -> list[int]:
    """Take a training step; return the modules that had a loss, in order."""
    watch, modules = None if census is None else census.save, []
    forward = training_forward(cfg, torch.device("cpu"), watch)
    losses = train_step(run.network, run.optimizer, run.images, run.targets, forward)
    if census is None:
        return [loss.module for loss in losses]
    with census:
        for loss in losses:
            modules.append(loss.module)
            del loss  # frees the loss, as in training
            census.part_of_step += 1
    return modules


@dataclass(frozen=True)
class Allocated:
    """Peaks of the CUDA allocator in a training step, in bytes, without earlier allocations.

    Attributes:
        peak: everything allocated, including cuDNN's workspaces.
        live: what is allocated between operations: the tensors, which `footprint` traces.
        cublas: the workspace that cuBLAS allocates at its first matrix product and keeps; not part of the others.
    """

    peak: int
    live: int
    cublas: int


class _BetweenOperations(TorchDispatchMode):
    """Records the peak of the CUDA allocator between operations, which excludes workspaces of kernels."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.live = 0
        self._device = device

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.live = max(self.live, torch.cuda.memory_allocated(self._device))
        return out


def allocated(cfg: Config) -> Allocated:
    """Measure the allocator's peaks in the third training step, eagerly and on real tensors.

    By then cuDNN has tried its algorithms, and the optimizer's state exists.
    """
    device = devices.chosen(cfg.device)
    devices.prepare(device, cfg.deterministic, cfg.tf32)
    cublas = _cublas_workspace(device)
    before = torch.cuda.memory_allocated(device)
    network = build_network(cfg).train()
    devices.place(network, replace(cfg, compile=False), device)
    optimizer = optim.build(network.parameters(), cfg.optimizer)
    images, targets = batch_of_zeros(cfg, device)
    between = _BetweenOperations(device)
    for context in (nullcontext(), nullcontext(), between):
        torch.cuda.reset_peak_memory_stats(device)
        with context:
            for _ in train_step(network, optimizer, images, targets, training_forward(cfg, device)):
                pass
    return Allocated(torch.cuda.max_memory_allocated(device) - before, between.live - before, cublas)


def _cublas_workspace(device: torch.device) -> int:
    """Make cuBLAS allocate its workspace, and return its size in bytes."""
    torch._C._cuda_clearCublasWorkspaces()
    before = torch.cuda.memory_allocated(device)
    _ = torch.ones(16, 16, device=device) @ torch.ones(16, 16, device=device)
    del _
    return torch.cuda.memory_allocated(device) - before


def batch_of_zeros(cfg: Config, device: torch.device) -> tuple[Tensor, Tensor]:
    """One process's share of a full batch, all zeros, for measurements that do not depend on the values."""
    count, size = cfg.batch_size // cfg.replicas, cfg.dataset.image_size
    images = torch.zeros(count, 3, size, size, device=device)
    targets = torch.zeros(count, dtype=torch.int64, device=device)
    return images.contiguous(memory_format=devices.layout(cfg)), targets
