"""The interface that the training step uses: a network that computes its own losses, module by module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from localsl.core.following import FollowingLayer


@dataclass(frozen=True)
class LocalLoss:
    """The loss of one gradient-isolated module for one batch.

    Attributes:
        module: index of the module, from 0.
        total: scalar, the sum of weights[k] * terms[k]; backpropagate it before requesting the next loss.
        terms: unweighted losses by name.
        weights: weights by the same names.
        correct: number of correct predictions of the module's classifier in the batch, an integer scalar on the
            device. With several classifiers it is the last one's; without any it is None.
    """

    module: int
    total: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float]
    correct: Tensor | None


class Learner(nn.Module, ABC):
    """A network that computes its own losses, module by module.

    Attributes:
        local_modules: the modules, each with an `index`; a step has at most one loss for each.
    """

    local_modules: list[Any]

    @abstractmethod
    def local_losses(self, images: Any, targets: Any) -> Iterator[LocalLoss]:
        """Yield the loss of each module that has one, to be backpropagated before the next is requested."""

    @abstractmethod
    def layers_of(self, module: Any) -> list[nn.Module]:
        """The layers of a module."""

    def update_ema(self, layers: Sequence[FollowingLayer] | None = None) -> None:
        """Update moving averages; called once per step, between the last backward pass and the optimizer's step.

        Args:
            layers: the layers to update; None for all.
        """

    @property
    def held(self) -> Sequence[Any]:
        """The modules that this process trains."""
        return self.local_modules

    def held_state(self) -> dict[str, Tensor]:
        """The entries of `state_dict()` that training in this process changes."""
        return self.state_dict()

    def load_held(self, state: dict[str, Tensor]) -> None:
        """Load the held entries from the `state_dict()` of a complete network."""
        self.load_state_dict(state)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device
