"""A layer that follows a live layer by exponential moving average, with a learnable bias (MAN, MLAAN's LAM)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from localsl.core.following import FollowingLayer
from localsl.core.settings import Affects, number, one_of, ruled


@dataclass(kw_only=True)
class EmaSettings:
    """Layers that follow later ones by moving average (MAN, MLAAN's LAM).

    Attributes:
        source: `momentum`, the average; `copy`, the followed layer's parameters as they were; `none`, the bias
            alone.
        momentum: m of the average.
        gradient: whether the follower also takes gradient steps.
        bias: what is learnt beside it: a `block` of the same architecture, whose output is added, a number per
            `channel`, or `none`.
        start: the follower's weights at the start: a `copy` of the followed layer's, or `fresh` random ones.
        bias_start: a block's weights at the start: its `own` random ones, or as the `follower` starts.
        layers: of a leap bridge, which follow: `all`, or the `first`, the others being trained copies.
        moves: the modules whose layers move: `all`, the `last`, or all with the last's twice a step.
    """

    source: str = ruled(one_of("none", "momentum", "copy"), default="momentum", always=True)
    momentum: float = ruled(number(0, at_most=1), default=0.995)
    gradient: bool | None = False
    bias: str = ruled(one_of("none", "block", "channel"), default="none")
    start: str | None = ruled(one_of("copy", "fresh"), default="copy")
    bias_start: str = ruled(one_of("follower", "own"), affects=Affects.NUMBERS, default="follower")
    layers: str = ruled(one_of("all", "first"), default="all")
    moves: str | None = ruled(one_of("all", "last", "last_twice"), default="all")

    @property
    def m(self) -> float:
        """MAN's m (its eq. 7) of a layer that moves: 0 for a copy, which is the live layer after every step."""
        return 0.0 if self.source == "copy" else self.momentum

    def canonical(self) -> EmaSettings:
        """The same with the values that another field makes meaningless at their defaults.

        A copy takes no gradient step, and only a bias that is a block has weights to start from.
        """
        return replace(
            self,
            gradient=False if self.source == "copy" else self.gradient,
            bias_start=self.bias_start if self.bias == "block" else "follower",
        )


class ChannelBias(nn.Module):
    """One learnable number per channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W), shifted."""
        return x + self.value.view(1, -1, 1, 1)


class MomentumLayer(FollowingLayer):
    """A copy of a later layer that follows that layer's parameters, and what is learnt on top of it.

    MAN, Su et al. 2024, eqs. 4-7: gamma_j <- m gamma_j + (1 - m) theta_{j+1}. Parameters only: BatchNorm keeps
    running statistics of its own, which nothing reads, since the layer never runs in evaluation.

    Attributes:
        follower: the moving average; None for source `none`.
        bias: a second layer of the same architecture, trained, whose output is added (`block`, as released), a
            number per channel, or nothing.
        momentum: m of this layer, 0 to follow without averaging, 1 to stand still.
    """

    def __init__(self, live: nn.Module, channels: int, settings: EmaSettings, momentum: float):
        super().__init__()
        self._live = (live,)  # in a tuple: it is the backbone's, and not registered here
        self.momentum = momentum
        self.follower = None if settings.source == "none" else copy.deepcopy(live)
        if self.follower is not None:
            self.follower.requires_grad_(bool(settings.gradient))
        biases = {
            "block": lambda: copy.deepcopy(live).requires_grad_(True),
            "channel": lambda: ChannelBias(channels),
        }
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
        followers: list[Tensor] = list(self.follower.parameters())
        live: list[Tensor] = list(self.live.parameters())
        # Of all parameters at once, with the bits of `mul_` and `add_` one by one.
        torch._foreach_mul_(followers, self.momentum)  # pyright: ignore[reportPrivateImportUsage]
        moved = torch._foreach_mul(live, 1 - self.momentum)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(followers, moved)  # pyright: ignore[reportPrivateImportUsage]
