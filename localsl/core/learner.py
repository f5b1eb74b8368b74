"""What a training step is of: a network that makes its own losses, module by module."""

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
        module: index of the module that it ends, from 0.
        total: scalar, the sum of weights[k] * terms[k]: to be backpropagated before the next is asked for.
        terms: unweighted losses by name.
        weights: by the same names.
        correct: right answers of the module's classifier in the batch, an integer scalar left on the device;
            of several classifiers the last one's, of none None.
    """

    module: int
    total: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float]
    correct: Tensor | None


class Learner(nn.Module, ABC):
    """A network that makes its own losses, module by module: what a training step is of.

    Attributes:
        local_modules: each with its `index`; as many as there are losses in a step, at most.
    """

    local_modules: list[Any]

    @abstractmethod
    def local_losses(self, images: Any, targets: Any) -> Iterator[LocalLoss]:
        """The loss of every module that has one, in turn, to be backpropagated before the next is asked for."""

    @abstractmethod
    def layers_of(self, module: Any) -> list[nn.Module]:
        """The layers of a module."""

    def update_ema(self, layers: Sequence[FollowingLayer] | None = None) -> None:
        """Called once per step, after the last backward and before the optimizer's step.

        Args:
            layers: the layers to move; None for all.
        """

    @property
    def held(self) -> Sequence[Any]:
        """The modules that this process trains."""
        return self.local_modules

    def held_state(self) -> dict[str, Tensor]:
        """The entries of `state_dict()` that this process trains, or that its training moves."""
        return self.state_dict()

    def load_held(self, state: dict[str, Tensor]) -> None:
        """Take from a whole network's `state_dict()` what is held."""
        self.load_state_dict(state)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device
