"""Sending a batch's features from one process to the next: their layout, sending, and receiving ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from localsl.core.network import LocalNetwork
from localsl.execution.processes import connection_errors

IN_FLIGHT = 2  # messages under way between two processes


@dataclass(frozen=True)
class Boundary:
    """The layout of features between two modules: shape and strides without the batch dimension, and type."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, features: Tensor) -> Boundary:
        """The layout of the given features."""
        return cls(tuple(features.shape[1:]), torch.empty_like(features).stride()[1:], features.dtype)

    def empty(self, images: int, device: torch.device) -> Tensor:
        """An empty tensor for the features of `images` images; equal strides ensure that the same kernels run."""
        return torch.empty_strided((images, *self.shape), self._strides, dtype=self.dtype, device=device)

    def fitted(self, features: Tensor) -> Tensor:
        """The features in this layout, copied if their strides differ."""
        if features.stride() == self._strides:
            return features
        return self.empty(len(features), features.device).copy_(features)

    @property
    def _strides(self) -> tuple[int, ...]:
        return (torch.Size(self.shape).numel(), *self.stride)


@torch.no_grad()
def boundaries(
    network: LocalNetwork, images: Tensor, forward: Callable[[], AbstractContextManager]
) -> list[Boundary]:
    """The layouts of the images and of the output of every module, from a forward pass in evaluation mode."""
    network.backbone.refresh()
    training, found, features = network.training, [Boundary.of(images)], images
    network.eval()
    with forward():
        for module in network.local_modules:
            features = nn.Sequential(*network.layers_of(module))(features)
            found.append(Boundary.of(features))
    network.train(training)
    return found


def _flat(tensor: Tensor) -> Tensor:
    """The values of a dense tensor as a vector in memory order."""
    return tensor.as_strided((tensor.numel(),), (1,))


class Sender:
    """Sends messages of several tensors to another process; at most `IN_FLIGHT` are under way."""

    def __init__(self, to: int, group: Any):
        self._to, self._group = to, group
        self._underway: deque[list[tuple[Any, Tensor]]] = deque()  # tensors must live until they have been sent

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Start to send a message, after waiting for older ones if necessary; its tensors must not change."""
        self.finish(IN_FLIGHT - 1)
        with connection_errors():
            self._underway.append(
                [
                    (dist.isend(_flat(tensor), self._to, group=self._group, tag=tag), tensor)
                    for tag, tensor in enumerate(tensors)
                ]
            )

    def finish(self, left: int = 0) -> None:
        """Wait until at most `left` messages are under way."""
        with connection_errors():
            while len(self._underway) > left:
                for work, _ in self._underway.popleft():
                    work.wait()


class Receiver:
    """Receives messages from another process ahead of their use, into a few buffers that are reused."""

    def __init__(self, source: int, group: Any, empty: Callable[[int], list[Tensor]]):
        """`empty` allocates the tensors of a message about the given number of images."""
        self._source, self._group, self._empty = source, group, empty
        self._free: dict[int, list[list[Tensor]]] = {}
        self._underway: deque[tuple[int, list[Any], list[Tensor]]] = deque()

    def messages(self, sizes: Iterable[int]) -> Iterator[list[Tensor]]:
        """Yield messages about `sizes` images; the tensors of each are valid until the next one is taken."""
        remaining = iter(sizes)
        while True:
            while len(self._underway) < IN_FLIGHT and (size := next(remaining, None)) is not None:
                self._post(size)
            if not self._underway:
                return
            size, works, tensors = self._underway.popleft()
            with connection_errors():
                for work in works:
                    work.wait()
            yield tensors
            self._free[size].append(tensors)

    def _post(self, size: int) -> None:
        free = self._free.setdefault(size, [])
        tensors = free.pop() if free else self._empty(size)
        with connection_errors():
            works = [
                dist.irecv(_flat(tensor), self._source, group=self._group, tag=tag)
                for tag, tensor in enumerate(tensors)
            ]
        self._underway.append((size, works, tensors))
