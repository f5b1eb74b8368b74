"""A batch's way through layers that follow each other to the losses at their end: one graph of a step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from localsl.core.objectives import Batch, Part

# Features, the part's unweighted losses by name, and the right answers of its last classifier.
Found = tuple[Tensor, dict[str, Tensor], Tensor | None]
PathLosses = Callable[[nn.Module, Part, Tensor, Batch], Found]


def path_losses(path: nn.Module, part: Part, x: Tensor, batch: Batch) -> Found:
    """Run layers on `x`, and the part's networks and losses on the features that they make."""
    features = path(x)
    losses, correct = part.losses(features, batch)
    return features, losses, correct


class Segmented(nn.Module):
    """Layers in so many segments, each of which is run again in the backward instead of being remembered."""

    def __init__(self, layers: Sequence[nn.Module], segments: int):
        super().__init__()
        size = -(-len(layers) // segments)
        self.segments = nn.ModuleList(
            nn.Sequential(*layers[begin : begin + size]) for begin in range(0, len(layers), size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's output. BatchNorm's running statistics move once."""
        for segment in self.segments:
            contexts = partial(_contexts, segment)
            x = cast("Tensor", checkpoint(segment, x, use_reentrant=False, context_fn=contexts))
        return x


def _contexts(segment: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of the first run of a segment, and of the second."""
    return nullcontext(), frozen_statistics([segment])


@contextmanager
def frozen_statistics(layers: Sequence[nn.Module]) -> Generator[None, None, None]:
    """Normalise by the batch, as in training, without moving the running statistics."""
    norms = [m for layer in layers for m in layer.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
