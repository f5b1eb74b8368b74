"""A layer that follows a live layer by exponential moving average, with a learnable bias (MAN, MLAAN's LAM)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from localsl.settings import EmaConfig


class ChannelBias(nn.Module):
    """One learnable number per channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W), shifted."""
        return x + self.value.view(1, -1, 1, 1)


class MomentumLayer(nn.Module):
    """A copy of a later layer that follows that layer's parameters, and what is learnt on top of it.

    MAN, Su et al. 2024, eqs. 4-7: gamma_j <- m gamma_j + (1 - m) theta_{j+1}. Parameters only: BatchNorm keeps
    running statistics of its own, which nothing reads, since the layer never runs in evaluation.

    Attributes:
        follower: the moving average; None for source `none`.
        bias: a second layer of the same architecture, trained, whose output is added (`block`, as released), a
            number per channel, or nothing.
        momentum: m of this layer, 0 to follow without averaging, 1 to stand still.
    """

    def __init__(self, live: nn.Module, channels: int, settings: EmaConfig, momentum: float):
        super().__init__()
        self._live = (live,)  # in a tuple: it is the backbone's, and not registered here
        self.momentum = momentum
        self.follower = None if settings.source == "none" else copy.deepcopy(live)
        if self.follower is not None:
            self.follower.requires_grad_(bool(settings.gradient))
        biases = {"block": lambda: copy.deepcopy(live), "channel": lambda: ChannelBias(channels)}
        self.bias = biases.get(settings.bias, lambda: None)()
        self._copies = settings.start == "copy"
        self._bias_copies = self._copies and settings.bias_start == "follower"

    def forward(self, x: Tensor) -> Tensor:
        """The features of the followed layer's shape; gradients pass through the follower to `x`."""
        if self.follower is None:
            assert self.bias is not None
            return self.bias(x)
        y = self.follower(x)
        if self.bias is None:
            return y
        return self.bias(y) if isinstance(self.bias, ChannelBias) else self.bias(x) + y

    def start(self) -> None:
        """Take the live layer's weights, where the settings say so; else keep the random ones."""
        for layer, copies in ((self.follower, self._copies), (self.bias, self._bias_copies)):
            if copies and layer is not None and not isinstance(layer, ChannelBias):
                layer.load_state_dict(self.live.state_dict())

    @property
    def live(self) -> nn.Module:
        """The layer that it follows."""
        return self._live[0]

    @torch.no_grad()
    def update(self) -> None:
        """One step of the average, in place, towards the live layer's present parameters."""
        if self.follower is None or self.momentum == 1:
            return
        for follower, live in zip(self.follower.parameters(), self.live.parameters(), strict=True):
            follower.mul_(self.momentum).add_(live * (1 - self.momentum))
