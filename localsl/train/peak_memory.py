"""Peak memory of training: reported by the allocator on a GPU, counted from live tensors on a CPU."""

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
    """Counts the bytes of all tensors that are alive while it is active, including the given ones.

    A storage counts once, however many tensors view it, from the operation that returns it until nothing refers to
    it. Activations saved for the backward pass count; the workspace of a kernel does not.

    Attributes:
        peak: the peak so far, in bytes.
    """

    def __init__(self, tensors: Iterable[Tensor] = ()):
        super().__init__()
        self.peak = 0
        self._bytes = 0  # of storages that are not known to be freed
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
        if (
            this in self._alive or not size
        ):  # a key is unique, since a weak reference keeps it from being reused
            return
        self._alive[this] = StorageWeakRef(storage), size
        self._bytes += size
        if self._bytes > self.peak and self.now > self.peak:
            self.peak = self._bytes
            self.at_peak()

    @property
    def now(self) -> int:
        """Bytes alive. Weak references are polled, since callbacks would run inside the garbage collector."""
        for this in [this for this, (reference, _) in self._alive.items() if reference.expired()]:
            self.forget(this)
        return self._bytes

    def forget(self, this: int) -> None:
        """Stop counting a storage that was freed."""
        self._bytes -= self._alive.pop(this)[1]

    def at_peak(self) -> None:
        """A hook for subclasses, called whenever the peak rises."""

    def alive(self) -> dict[int, int]:
        """The bytes of every live storage by `key`; exact inside `at_peak`, where freed storages are removed."""
        return {this: size for this, (_, size) in self._alive.items()}


def key(tensor: Tensor) -> int:
    """An identifier that tensors share if they view the same storage, unique while it is alive."""
    return tensor.untyped_storage()._cdata


# Steps after which cuDNN has chosen its algorithms for a shape, and the optimizer's state exists.
TRIALS = 3


class PeakMemory:
    """The peak memory of a run's training steps, without the data set, which may lie on the same device.

    On CUDA it is the allocator's `max_memory_allocated` minus the data set, from the second epoch of a process on.
    In the first epoch cuDNN tries its algorithms on every new shape, with workspaces that no later step needs. If no
    second epoch follows, the first three steps are left out instead, unless there are no others. All steps count if
    they are replayed, because a recording allocates its memory only once.

    On a CPU it is the size of the live tensors in one step on a full batch: parameters, gradients, momentum and
    activations, without the workspaces of kernels. This is the second step, if there is one, because the optimizer's
    state exists by then. `scope` says what `bytes` counts.
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
        """Prepare for a run from its first step.

        Args:
            steps: steps per epoch, the last of which may have a smaller batch.
            compiled: whether steps are compiled; a CPU's peak is then unknown, since kernels allocate tensors too.
            replayed: whether steps are recorded as CUDA graphs.
        """
        self._previous: int | None = None if compiled else 0  # the peak of earlier steps
        self._network, self._optimizer = network, optimizer
        self._device = next(p.device for p in network.parameters() if p.device.type != "meta")
        self._steps, self._all_steps, self._replayed = steps, steps * epochs, replayed
        self._trace_at = None if compiled else 1 if steps > 2 else steps if epochs > 1 else 0
        self._step = 0
        self._live: LiveBytes | None = None
        self._resident = 0
        # The allocator's peak is reset before step `_reset_at`, and `_pending` until then. `_clean` says whether
        # `_previous` was measured after cuDNN's trials, so that it still counts.
        self._reset_at = self._tuned_at(0)
        self._pending, self._clean = self._reset_at is not None, False
        if self._device.type == "cuda":
            state = sum(t.nbytes for t in self._state())
            torch.cuda.reset_peak_memory_stats(self._device)
            self._resident = torch.cuda.memory_allocated(self._device) - state

    def step(self) -> AbstractContextManager:
        """The context of one training step."""
        step, self._step = self._step, self._step + 1
        if self._device.type == "cuda":
            if self._pending and step == self._reset_at:
                torch.cuda.reset_peak_memory_stats(self._device)
                self._previous, self._pending = self._previous if self._clean else None, False
        elif step == self._trace_at:
            self._live = LiveBytes(self._state())
            return self._live
        return nullcontext()

    def resume(self, steps: int, peak: int | None) -> None:
        """Continue after the run's first `steps` steps with the peak measured over them; None starts anew."""
        first = self._tuned_at(0)
        self._step, self._previous = steps, peak
        # Every process tries cuDNN's algorithms again. The peak so far is valid if it was measured after such trials.
        self._clean = peak is not None and first is not None and steps > first
        self._reset_at = self._tuned_at(steps)
        self._pending = self._clean or self._reset_at is not None
        if peak is None and self._trace_at is not None:
            smaller = self._steps > 1 and steps % self._steps == self._steps - 1  # the last batch of an epoch
            self._trace_at = max(self._trace_at, steps + smaller)

    @property
    def scope(self) -> str:
        """What `bytes` counts."""
        if self._device.type == "cuda":
            return "CUDA allocator's peak over training, without the data set"
        return "live tensors of one training step, without the data set"

    @property
    def bytes(self) -> int | None:
        """The peak so far; None if it is unknown."""
        if self._device.type == "cuda":
            if self._pending and self._clean:
                return self._previous
            return max(self._previous or 0, torch.cuda.max_memory_allocated(self._device) - self._resident)
        return self._live.peak if self._live else self._previous

    def _tuned_at(self, start: int) -> int | None:
        """The first step of a process after its trials of cuDNN's algorithms; None if all its steps count.

        Args:
            start: the first step of the process.
        """
        ends = (start + self._steps, start + TRIALS)
        return None if self._replayed else next((end for end in ends if end < self._all_steps), None)

    def _state(self) -> list[Tensor]:
        tensors = [
            t for t in (*self._network.parameters(), *self._network.buffers()) if t.device.type != "meta"
        ]
        tensors += [p.grad for p in self._network.parameters() if p.grad is not None]
        return tensors + [value for state in self._optimizer.state.values() for value in state.values()]
