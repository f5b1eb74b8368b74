"""A training step recorded as a CUDA graph and replayed: one launch in place of thousands."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], None]

# Eager steps before the first recording: kernels are chosen in them, and the optimizer's state made.
WARM_UP = 3


class Graphs:
    """Replays steps on batches of one size; those of another, an epoch's last, are taken as ever."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._eager = WARM_UP
        self._stream = torch.cuda.Stream()

    def replayed(self, step: Step) -> Step:
        """The same step, recorded at its first whole batch once warm: what it reads and writes must stay."""
        recorded: list[Step] = []

        def replay(images: Tensor, targets: Tensor) -> None:
            if len(targets) != self._batch_size:
                step(images, targets)
            elif self._eager:
                self._eager -= 1
                self._apart(step, images, targets)
            else:
                if not recorded:
                    recorded.append(_record(step, images, targets))
                recorded[0](images, targets)

        return replay

    def _apart(self, step: Step, images: Tensor, targets: Tensor) -> None:
        """On a stream of its own, as steps before a recording have to be."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            step(images, targets)
        torch.cuda.current_stream().wait_stream(self._stream)


def _record(step: Step, images: Tensor, targets: Tensor) -> Step:
    """The step on copies of these, which replaying overwrites; recording does not run it."""
    static_images, static_targets = images.clone(), targets.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(static_images, static_targets)

    def replay(images: Tensor, targets: Tensor) -> None:
        static_images.copy_(images)
        static_targets.copy_(targets)
        graph.replay()

    return replay
