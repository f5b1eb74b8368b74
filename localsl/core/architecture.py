"""Backbones as the core sees them: an ordered list of local layers, and how to build layers like these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from localsl.core.initialization import normal_fan_out
from localsl.core.layers import pooled

# Layouts of features: images (N, C, H, W), maps (N, H, W, C), tokens (N, T, C), vectors (N, C).
LAYOUTS = ("image", "map", "tokens", "vector")

# The kinds of networks for which the papers give different heads, decoders, loss weights and AugLocal networks.
SCALES = ("cifar", "imagenet")


@dataclass(frozen=True)
class LocalLayer:
    """A local layer: the smallest unit that a network can be cut into.

    Attributes:
        name: "stem", or "s.l" for block l (from 0) of stage s (from 1), numbered as in the papers' code; in a
            traced network, the name of one of its modules.
        channels: channels of the output.
        stride: the factor by which it downsamples; sizes are rounded up.
        stage: its stage, from 1; the stem belongs to stage 1.
        is_stem: whether it comes before the first block.
        layout: layout of the output, one of `LAYOUTS`.
    """

    name: str
    channels: int
    stride: int
    stage: int = 1
    is_stem: bool = False
    layout: str = "image"


class Backbone(nn.Module):
    """The network that is trained and evaluated: `layers`, one per local layer, and a `classifier`."""

    layers: Sequence[nn.Module]
    classifier: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        for layer in self.layers:
            x = layer(x)
        return self.classifier(x)

    def refresh(self) -> None:
        """Hook called before each step, for backbones whose layers refer to weights of another network."""


class Architecture:
    """A network as an ordered list of local layers, described without building it.

    Attributes:
        name: the key of its published cuts, loss weights and leap layers.
        scale: "cifar" or "imagenet": which of the papers' auxiliary networks to use where they differ.
    """

    name: str
    scale: str

    def local_layers(self) -> list[LocalLayer]:
        """All local layers in order, beginning with the stem if there is one; builds nothing."""
        raise NotImplementedError

    def sizes(self, image_size: int) -> list[int]:
        """The width in pixels of each local layer's output; for tokens, their number."""
        sizes: list[int] = []
        size = image_size
        for layer in self.local_layers():
            size = -(-size // layer.stride)
            sizes.append(size)
        return sizes

    def layer_like(self, index: int, c_in: int, stride: int) -> nn.Module:
        """A new layer of the kind and width of local layer `index`, with `c_in` input channels and `stride`.

        AugLocal's auxiliary networks consist of such layers.
        """
        raise NotImplementedError

    def layers_like(self, start: int, selected: list[int], strides: list[int]) -> list[nn.Module]:
        """A chain of new layers like the `selected` ones, which takes the output of local layer `start`."""
        chain: list[nn.Module] = []
        layers, width = self.local_layers(), self.local_layers()[start].channels
        for index, stride in zip(selected, strides, strict=True):
            chain.append(self.layer_like(index, width, stride))
            width = layers[index].channels
        return chain

    def auxiliary_strides(self, layer: int, selected: list[int]) -> list[int]:
        """The strides of auxiliary layers that follow local layer `layer` and resemble the `selected` ones.

        Every downsampling between two selected layers must be made up for, and each auxiliary layer makes up
        for one. Those left after the last layer are dropped, as in AugLocal's code (16-channel layers at d = 2).
        """
        strides: list[int] = []
        layers, pending = self.local_layers(), 0
        for before, index in pairwise([layer, *selected]):
            pending += sum(skipped.stride == 2 for skipped in layers[before + 1 : index + 1])
            strides.append(2 if pending else 1)
            pending -= pending > 0
        return strides

    def auxiliary_classifier(self, width: int, outputs: int, norm: bool) -> list[nn.Module]:
        """The end of an AugLocal network: by default global pooling, BatchNorm if `norm`, and a linear layer."""
        return [*pooled(), *([nn.BatchNorm1d(width)] if norm else []), nn.Linear(width, outputs)]

    def initialize_auxiliary(self, network: nn.Module) -> None:
        """Initialise an auxiliary network, whose weights so far are torch's defaults."""
        normal_fan_out(network)
