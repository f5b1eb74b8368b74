"""Momentum layers: exponential moving averages of live layers, with a learnable bias (MAN, MLAAN's LAM)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from localsl.core.following import FollowingLayer
from localsl.core.settings import Affects, number, one_of, ruled


@dataclass(kw_only=True)
class EmaSettings:
    """Settings of layers that follow later layers of the network by moving average (MAN, MLAAN's LAM).

    Attributes:
        source: the follower: a moving average (`momentum`), the followed layer's parameters of the previous step
            (`copy`), or `none`, which leaves the bias alone.
        momentum: m of the moving average.
        gradient: whether the follower also takes gradient steps.
        bias: what is learnt beside the follower: a `block` of the same architecture, whose output is added, one
            number per `channel`, or `none`.
        start: initial weights of the follower: a `copy` of the followed layer's, or `fresh` random ones.
        bias_start: initial weights of a bias block: its `own` random ones, or those of the `follower` if that starts
            as a copy.
        layers: which layers of a leap bridge follow: `all`, or the `first`, with trained copies after it.
        moves: the modules whose followers are updated: `all`; the `last`; or all, with two updates per step in the
            last (`last_twice`).
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
        """The momentum m of MAN's eq. 7. It is 0 for a copy, which takes the live layer's weights in every step."""
        return 0.0 if self.source == "copy" else self.momentum

    def canonical(self) -> EmaSettings:
        """A copy in which fields that have no effect are set to their defaults.

        A follower that is a copy takes no gradient steps. Only a bias block beside a follower that starts as a copy
        has initial weights to choose.
        """
        return replace(
            self,
            gradient=False if self.source == "copy" else self.gradient,
            bias_start=self.bias_start if self.bias == "block" and self.start == "copy" else "follower",
        )


class ChannelBias(nn.Module):
    """One learnable number per channel."""

    def __init__(self, channels: int, layout: str):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(channels))
        self._shape = (-1, 1, 1) if layout == "image" else (-1,)  # all other layouts end with the channels

    def forward(self, x: Tensor) -> Tensor:
        """Add the numbers to features of the layout."""
        return x + self.value.view(self._shape)


class MomentumLayer(FollowingLayer):
    """A copy of a later layer whose parameters follow that layer's, and a learnable bias.

    The update is that of MAN (Su et al. 2024, eqs. 4-7): gamma_j <- m gamma_j + (1 - m) theta_{j+1}. It covers
    parameters only. BatchNorm keeps running statistics of its own, which are never used, because the layer does not
    run in evaluation.

    Attributes:
        follower: the moving average; None for source `none`.
        bias: a trained layer of the same architecture whose output is added (`block`, as in the released code), one
            number per channel, or None.
        momentum: m of this layer: 0 copies the live layer, 1 leaves the follower unchanged.
    """

    def __init__(
        self, live: nn.Module, channels: int, settings: EmaSettings, momentum: float, layout: str = "image"
    ):
        """`channels` and `layout` describe the output of the followed layer, `live`."""
        super().__init__()
        self._live = (live,)  # a tuple, so that the backbone's layer is not registered here as well
        self.momentum = momentum
        self.follower = None if settings.source == "none" else copy.deepcopy(live)
        if self.follower is not None:
            self.follower.requires_grad_(bool(settings.gradient))
        biases = {
            "block": lambda: copy.deepcopy(live).requires_grad_(True),
            "channel": lambda: ChannelBias(channels, layout),
        }
        self.bias = biases.get(settings.bias, lambda: None)()
        self._starts_as_copy = settings.start == "copy"
        self._bias_starts_as_copy = self._starts_as_copy and settings.bias_start == "follower"

    def forward(self, x: Tensor) -> Tensor:
        """Return features shaped like the followed layer's output. Gradients pass through the follower to `x`."""
        if self.follower is None:
            assert self.bias is not None
            return self.bias(x)
        y = self.follower(x)
        if self.bias is None:
            return y
        return self.bias(y) if isinstance(self.bias, ChannelBias) else self.bias(x) + y

    def start(self) -> None:
        """Copy the live layer's weights where the settings say so; otherwise keep the random ones."""
        starts = ((self.follower, self._starts_as_copy), (self.bias, self._bias_starts_as_copy))
        for layer, as_copy in starts:
            if as_copy and layer is not None and not isinstance(layer, ChannelBias):
                layer.load_state_dict(self.live.state_dict())

    @property
    def live(self) -> nn.Module:
        """The layer that is followed."""
        return self._live[0]

    @property
    def follows(self) -> bool:
        """Whether updates read the live layer: not without parameters that follow, nor with m = 1."""
        return (
            self.follower is not None and self.momentum != 1 and any(True for _ in self.follower.parameters())
        )

    @torch.no_grad()
    def update(self) -> None:
        """Update the moving average in place from the live layer's current parameters."""
        if self.follower is None or not self.follows:
            return
        followers: list[Tensor] = list(self.follower.parameters())
        live: list[Tensor] = list(self.live.parameters())
        # All parameters at once, with the same bits as `mul_` and `add_` for each.
        torch._foreach_mul_(followers, self.momentum)  # pyright: ignore[reportPrivateImportUsage]
        moved = torch._foreach_mul(live, 1 - self.momentum)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(followers, moved)  # pyright: ignore[reportPrivateImportUsage]
