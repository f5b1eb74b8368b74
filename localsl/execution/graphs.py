"""A training step recorded as a CUDA graph and replayed: one launch in place of thousands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], None]

# Eager steps before the first recording: kernels are chosen in them, and the optimizer's state made.
WARM_UP = 3


class Recorder(Protocol):
    """What records a step; `CudaRecorder` but in tests."""

    def eagerly(self, step: Step, images: Tensor, targets: Tensor) -> None:
        """Take a step that will be recorded later."""
        ...

    def record(self, step: Step, images: Tensor, targets: Tensor) -> Step:
        """The step as a recording, to be played on batches of this size; recording does not take it."""
        ...


class Graphs:
    """Records a step once for every batch size, an epoch's last included, and replays it from then on.

    A size is recorded when its kernels are chosen: in its second batch, after `WARM_UP` steps of any size.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder or CudaRecorder()
        self._steps = 0
        self._seen: set[int] = set()
        self._recorded: dict[int, Step] = {}

    def replayed(self, step: Step) -> Step:
        """The same step for all of a run: the tensors that it reads and writes must stay the same ones."""

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
    """Records CUDA graphs that share their memory: they are never replayed at the same time."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def eagerly(self, step: Step, images: Tensor, targets: Tensor) -> None:
        """On a stream of its own, as steps before a recording have to be."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            step(images, targets)
        torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, step: Step, images: Tensor, targets: Tensor) -> Step:
        """The step on copies of these, which replaying overwrites."""
        static_images, static_targets = images.clone(), targets.clone()
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: another that pins memory for batches to come must not break the recording.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            step(static_images, static_targets)

        def replay(images: Tensor, targets: Tensor) -> None:
            static_images.copy_(images)
            static_targets.copy_(targets)
            graph.replay()

        return replay
