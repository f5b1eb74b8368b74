"""What the core knows of a backbone: an ordered list of local layers, and how to build layers like them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from localsl.core.initialization import normal_fan_out
from localsl.core.layers import pooled

# How features are laid out: images (N, C, H, W), maps (N, H, W, C), tokens (N, T, C), vectors (N, C).
LAYOUTS = ("image", "map", "tokens", "vector")


@dataclass(frozen=True)
class LocalLayer:
    """One local layer: the smallest piece that a network is cut into.

    Attributes:
        name: "stem", or "s.l" for block l (from 0) of stage s (from 1), as the papers' code counts them; of a
            network that was traced, the name of its last module.
        channels: of its output.
        stride: the factor by which it shrinks the image, rounding up.
        stage: from 1; the stem counts as the first stage's.
        is_stem: whether it comes before the first block.
        layout: of its output, one of `LAYOUTS`.
    """

    name: str
    channels: int
    stride: int
    stage: int = 1
    is_stem: bool = False
    layout: str = "image"


class Backbone(nn.Module):
    """The network that is kept: `layers`, as many as there are local layers, then `classifier` to logits."""

    layers: Sequence[nn.Module]
    classifier: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, classes)."""
        for layer in self.layers:
            x = layer(x)
        return self.classifier(x)

    def refresh(self) -> None:
        """Called before a step: for backbones whose layers hold references to another network's weights."""


class Architecture:
    """A network as an ordered list of local layers, known before and after it is built.

    Attributes:
        name: published cuts, loss weights and leap layers are found by it.
        scale: "cifar" or "imagenet": which of the papers' auxiliary networks are meant where they differ.
    """

    name: str
    scale: str

    def local_layers(self) -> list[LocalLayer]:
        """All of them, the stem first where there is one, without building anything."""
        raise NotImplementedError

    def sizes(self, image_size: int) -> list[int]:
        """Width in pixels of each local layer's output; of tokens their number."""
        sizes: list[int] = []
        size = image_size
        for layer in self.local_layers():
            size = -(-size // layer.stride)
            sizes.append(size)
        return sizes

    def layer_like(self, index: int, c_in: int, stride: int) -> nn.Module:
        """A layer of the kind and width of local layer `index`, from `c_in` channels and with this stride.

        AugLocal's auxiliary networks are made of such layers.
        """
        raise NotImplementedError

    def layers_like(self, start: int, selected: list[int], strides: list[int]) -> list[nn.Module]:
        """A chain of layers like those of these indices, which takes the features of local layer `start`."""
        made: list[nn.Module] = []
        layers, width = self.local_layers(), self.local_layers()[start].channels
        for index, stride in zip(selected, strides, strict=True):
            made.append(self.layer_like(index, width, stride))
            width = layers[index].channels
        return made

    def owed(self, layer: int, selected: list[int]) -> list[int]:
        """The strides of auxiliary layers: each downsampling that a jump skips is owed, one paid per layer.

        What is still owed at the end is dropped, as in AugLocal's code (16-channel layers at d = 2).
        """
        strides: list[int] = []
        layers, debt = self.local_layers(), 0
        for before, index in pairwise([layer, *selected]):
            debt += sum(passed.stride == 2 for passed in layers[before + 1 : index + 1])
            strides.append(2 if debt else 1)
            debt -= debt > 0
        return strides

    def auxiliary_classifier(self, width: int, outputs: int, norm: bool) -> list[nn.Module]:
        """What AugLocal puts on the auxiliary layers: by default pooling, BatchNorm or none, a linear layer."""
        return [*pooled(), *([nn.BatchNorm1d(width)] if norm else []), nn.Linear(width, outputs)]

    def start_auxiliary(self, network: nn.Module) -> None:
        """Set the initial weights of an auxiliary network, which has torch's default ones."""
        normal_fan_out(network)
