"""How a batch's features travel from one process to the next: their form, sending, receiving ahead."""

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
from localsl.execution.processes import lost

IN_FLIGHT = 2  # batches that are on their way between two processes


@dataclass(frozen=True)
class Boundary:
    """Features as one module hands them to the next: shape and strides without the batch, and type."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, features: Tensor) -> Boundary:
        """Of features like these, of any number of images."""
        return cls(tuple(features.shape[1:]), torch.empty_like(features).stride()[1:], features.dtype)

    def empty(self, images: int, device: torch.device) -> Tensor:
        """Room for so many images' features, with the very strides: they decide which kernels run."""
        return torch.empty_strided((images, *self.shape), self._strides, dtype=self.dtype, device=device)

    def fitted(self, features: Tensor) -> Tensor:
        """The features, copied if they have other strides."""
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
    """The images, and what every module makes of them; they train nothing."""
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
    """A dense tensor's values in the order of memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


class Sender:
    """Messages of several tensors to another process, a few at a time on their way."""

    def __init__(self, to: int, group: Any):
        self._to, self._group = to, group
        self._underway: deque[list[tuple[Any, Tensor]]] = deque()  # tensors must live until they have been sent

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Start to send; first wait for older messages if too many are under way. Nothing may change them then."""
        self.finish(IN_FLIGHT - 1)
        with lost():
            self._underway.append(
                [
                    (dist.isend(_flat(tensor), self._to, group=self._group, tag=tag), tensor)
                    for tag, tensor in enumerate(tensors)
                ]
            )

    def finish(self, left: int = 0) -> None:
        """Wait until no more than so many messages are under way."""
        with lost():
            while len(self._underway) > left:
                for work, _ in self._underway.popleft():
                    work.wait()


class Receiver:
    """Messages from another process, received ahead into the same few buffers."""

    def __init__(self, source: int, group: Any, empty: Callable[[int], list[Tensor]]):
        """`empty` makes room for the tensors of a message about so many images."""
        self._source, self._group, self._empty = source, group, empty
        self._free: dict[int, list[list[Tensor]]] = {}
        self._underway: deque[tuple[int, list[Any], list[Tensor]]] = deque()

    def messages(self, sizes: Iterable[int]) -> Iterator[list[Tensor]]:
        """The next messages, about so many images each; the tensors of one are valid until the next is taken."""
        coming = iter(sizes)
        while True:
            while len(self._underway) < IN_FLIGHT and (size := next(coming, None)) is not None:
                self._post(size)
            if not self._underway:
                return
            size, works, tensors = self._underway.popleft()
            with lost():
                for work in works:
                    work.wait()
            yield tensors
            self._free[size].append(tensors)

    def _post(self, size: int) -> None:
        free = self._free.setdefault(size, [])
        tensors = free.pop() if free else self._empty(size)
        with lost():
            works = [
                dist.irecv(_flat(tensor), self._source, group=self._group, tag=tag)
                for tag, tensor in enumerate(tensors)
            ]
        self._underway.append((size, works, tensors))
