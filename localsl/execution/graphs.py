"""Recording a training step as a CUDA graph and replaying it: one launch instead of thousands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], None]

# Eager steps before the first recording, in which kernels are chosen and the optimizer's state is created.
WARM_UP = 3


class Recorder(Protocol):
    """The interface of `CudaRecorder`, which tests replace."""

    def eagerly(self, step: Step, images: Tensor, targets: Tensor) -> None:
        """Run a step that will be recorded later."""
        ...

    def record(self, step: Step, images: Tensor, targets: Tensor) -> Step:
        """Record the step, without running it, and return a function that replays it on batches of this size."""
        ...


class Graphs:
    """Records a step once for each batch size, including that of an epoch's last batch, and replays it from then on.

    The second batch of a size is recorded, when its kernels have been chosen, but not before `WARM_UP` eager steps.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder or CudaRecorder()
        self._steps = 0
        self._seen: set[int] = set()
        self._recorded: dict[int, Step] = {}

    def replayed(self, step: Step) -> Step:
        """A step that records and replays `step`, which must read and write the same tensors throughout a run."""

        def replay(images: Tensor, targets: Tensor) -> None:
            size = len(targets)
            if size not in self._seen or self._steps < WARM_UP:
                self._seen.add(size)
                self._steps += 1
                self._recorder.eagerly(step, images, targets)
                return
            if size not in self._recorded:
                self._recorded[size] = self._recorder.record(step, images, targets)
            self._recorded[size](images, targets)

        return replay


class CudaRecorder:
    """Records CUDA graphs that share a memory pool, since they are never replayed at the same time."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def eagerly(self, step: Step, images: Tensor, targets: Tensor) -> None:
        """Run a step on a side stream, as CUDA requires before a recording."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            step(images, targets)
        torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, step: Step, images: Tensor, targets: Tensor) -> Step:
        """Record the step on copies of the batch, which each replay overwrites with its own."""
        static_images, static_targets = images.clone(), targets.clone()
        graph = torch.cuda.CUDAGraph()
        # Only this thread is captured, so that a thread that pins memory for later batches does not break it.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            step(static_images, static_targets)

        def replay(images: Tensor, targets: Tensor) -> None:
            static_images.copy_(images)
            static_targets.copy_(targets)
            graph.replay()

        return replay
