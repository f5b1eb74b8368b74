"""The paths of a training step, compiled by torch.compile."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from localsl.core.objectives import Batch, Part
from localsl.core.paths import PathResult, path_losses


class Compiled:
    """`path_losses`, compiled for forward and backward; paths of equal shape share one compilation.

    Batches of another size than `batch_size` (the last of an epoch) run eagerly, since they would need compilations
    of their own.
    """

    def __init__(self, batch_size: int):
        from torch._dynamo import config  # imported late: this takes as long as importing torch

        config.recompile_limit = max(config.recompile_limit, 256)  # there is one compilation per shape of path
        self._batch_size = batch_size
        self._compiled = torch.compile(path_losses, fullgraph=True, dynamic=False)
        self._before = _compilations()

    def __call__(self, path: nn.Module, part: Part, x: Tensor, batch: Batch) -> PathResult:
        """Compute the losses of a path as `path_losses` does."""
        run = self._compiled if len(x) == self._batch_size else path_losses
        return run(path, part, x, batch)

    def compilations(self) -> dict[str, float]:
        """The number of graphs that this process has compiled since construction, and the seconds this took."""
        return {name: value - self._before[name] for name, value in _compilations().items()}


def _compilations() -> dict[str, float]:
    from torch._dynamo.utils import counters, cumulative_time_spent_ns

    spent = sum(cumulative_time_spent_ns[name] for name in ("entire_frame_compile", "entire_backward_compile"))
    return {"graphs": counters["stats"]["unique_graphs"], "seconds": spent / 1e9}
