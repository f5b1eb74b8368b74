"""One graph of a training step: from a batch through consecutive layers to the losses at their end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from localsl.core.objectives import Batch, Part

# Features, the part's unweighted losses by name, and the number of correct predictions of its last classifier.
PathResult = tuple[Tensor, dict[str, Tensor], Tensor | None]
PathLosses = Callable[[nn.Module, Part, Tensor, Batch], PathResult]


def path_losses(path: nn.Module, part: Part, x: Tensor, batch: Batch) -> PathResult:
    """Run the layers of `path` on `x`, then the part's auxiliary networks and losses on their output."""
    features = path(x)
    losses, correct = part.losses(features, batch)
    return features, losses, correct


class Segmented(nn.Module):
    """A chain of layers in segments, whose activations are recomputed in the backward pass."""

    def __init__(self, layers: Sequence[nn.Module], segments: int):
        super().__init__()
        size = -(-len(layers) // segments)
        self.segments = nn.ModuleList(
            nn.Sequential(*layers[begin : begin + size]) for begin in range(0, len(layers), size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's output. The recomputation leaves BatchNorm's running statistics unchanged."""
        for segment in self.segments:
            contexts = partial(_contexts, segment)
            x = cast("Tensor", checkpoint(segment, x, use_reentrant=False, context_fn=contexts))
        return x


def _contexts(segment: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of a segment's first forward and of its recomputation."""
    return nullcontext(), frozen_statistics([segment])


@contextmanager
def frozen_statistics(layers: Sequence[nn.Module]) -> Generator[None, None, None]:
    """Let BatchNorm normalise with batch statistics, as in training, without updating its running statistics."""
    norms = [m for layer in layers for m in layer.modules() if isinstance(m, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # Batches are not counted either: with momentum None, their number weights the next one.
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
