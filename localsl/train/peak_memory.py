"""Peak memory of training: the allocator's on a GPU, counted live tensors on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from localsl.train.optim import Optimizer


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors alive while it is active, those handed to it at the start included.

    A storage counts once, however many tensors view it, from the operation that returns it until nothing
    refers to it: activations saved for backward count, a kernel's own workspace does not.

    Attributes:
        peak: bytes.
    """

    def __init__(self, tensors: Iterable[Tensor] = ()):
        super().__init__()
        self.peak = 0
        self._bytes = 0  # of storages not yet found dead
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        for tensor in tensors:
            self._count(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here; True would import the compiler at the first operation

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_iter(out):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return out

    def _count(self, tensor: Tensor) -> None:
        this, storage = key(tensor), tensor.untyped_storage()
        size = storage.nbytes()
        if this in self._alive or not size:  # an address is not used again while it is weakly referred to
            return
        self._alive[this] = StorageWeakRef(storage), size
        self._bytes += size
        if self._bytes > self.peak and self.now > self.peak:
            self.peak = self._bytes
            self.at_peak()

    @property
    def now(self) -> int:
        """Bytes alive. Weak references are asked: their callbacks would run inside the garbage collector."""
        for this in [this for this, (reference, _) in self._alive.items() if reference.expired()]:
            self.forget(this)
        return self._bytes

    def forget(self, this: int) -> None:
        """Called for a storage that is found dead."""
        self._bytes -= self._alive.pop(this)[1]

    def at_peak(self) -> None:
        """Called whenever the peak rises."""

    def alive(self) -> dict[int, int]:
        """Bytes of every storage alive, by `key`; to be asked in `at_peak`, when none is dead."""
        return {this: size for this, (_, size) in self._alive.items()}


def key(tensor: Tensor) -> int:
    """What tensors share that view one storage, as long as it lives."""
    return tensor.untyped_storage()._cdata


# Steps after which a shape's algorithms are chosen, and the optimizer's state is made.
TRIALS = 3


class PeakMemory:
    """The peak of a run's training steps, data set left out: it lies on the device beside them.

    On CUDA the allocator's `max_memory_allocated`, less the data set, of a process's steps from its second
    epoch on: in the first cuDNN tries its algorithms on every new shape, in workspaces that no later step needs.
    Where no second epoch follows it is of the steps after the first three, or of all where there are no more.
    So it is of all where steps are replayed: a recording's memory is allocated once.

    On a CPU the live tensors of one step on a full batch, the second step where it can be, when the optimizer's
    state exists: parameters, gradients, momentum and activations, without kernels' workspaces. `scope` says which.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        steps: int,
        epochs: int,
        compiled: bool = False,
        replayed: bool = False,
    ):
        """`steps` is an epoch's, of which the last may be of a smaller batch; of compiled ones, whose kernels
        have tensors of their own, a CPU's are not counted; `replayed` ones are recorded as a CUDA graph.
        """
        self._before: int | None = None if compiled else 0
        self._network, self._optimizer = network, optimizer
        self._device = next(p.device for p in network.parameters() if p.device.type != "meta")
        self._steps, self._all_steps, self._replayed = steps, steps * epochs, replayed
        self._trace_at = None if compiled else 1 if steps > 2 else steps if epochs > 1 else 0
        self._step = 0
        self._live: LiveBytes | None = None
        self._resident = 0
        self._settles = self._settled(0)  # the step before which the allocator's peak is counted anew
        self._pending, self._clean = self._settles is not None, False
        if self._device.type == "cuda":
            state = sum(t.nbytes for t in self._state())
            torch.cuda.reset_peak_memory_stats(self._device)
            self._resident = torch.cuda.memory_allocated(self._device) - state

    def step(self) -> AbstractContextManager:
        """Wraps one training step."""
        step, self._step = self._step, self._step + 1
        if self._device.type == "cuda":
            if self._pending and step == self._settles:
                torch.cuda.reset_peak_memory_stats(self._device)
                self._before, self._pending = self._before if self._clean else None, False
        elif step == self._trace_at:
            self._live = LiveBytes(self._state())
            return self._live
        return nullcontext()

    def go_on(self, steps: int, peak: int | None) -> None:
        """Count from a peak that was measured over the run's first `steps` steps; anew where it is None."""
        first = self._settled(0)
        self._step, self._before = steps, peak
        # A new process tries the algorithms anew: what was counted after that counts, what before does not.
        self._clean = peak is not None and first is not None and steps > first
        self._settles = self._settled(steps)
        self._pending = self._clean or self._settles is not None
        if peak is None and self._trace_at is not None:
            smaller = self._steps > 1 and steps % self._steps == self._steps - 1  # an epoch's last batch
            self._trace_at = max(self._trace_at, steps + smaller)

    @property
    def scope(self) -> str:
        """What `bytes` counts."""
        if self._device.type == "cuda":
            return "CUDA allocator's peak over training, without the data set"
        return "live tensors of one training step, without the data set"

    @property
    def bytes(self) -> int | None:
        """The peak so far; None where it is not counted."""
        if self._device.type == "cuda":
            if self._pending and self._clean:
                return self._before
            return max(self._before or 0, torch.cuda.max_memory_allocated(self._device) - self._resident)
        return self._live.peak if self._live else self._before

    def _settled(self, begun: int) -> int | None:
        """The step before which a process that began with another has tried cuDNN's algorithms; None if none is."""
        ends = (begun + self._steps, begun + TRIALS)
        return None if self._replayed else next((end for end in ends if end < self._all_steps), None)

    def _state(self) -> list[Tensor]:
        tensors = [
            t for t in (*self._network.parameters(), *self._network.buffers()) if t.device.type != "meta"
        ]
        tensors += [p.grad for p in self._network.parameters() if p.grad is not None]
        return tensors + [value for state in self._optimizer.state.values() for value in state.values()]
