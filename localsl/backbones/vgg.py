"""VGG with BatchNorm (Simonyan and Zisserman 2015): every convolution is a local layer, none is a stem.

A pooling belongs to the layer after it, so that it runs behind the cut (AugLocal's code). VGG-19 for small
images, which AugLocal did not release, is the same network with a linear classifier.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from localsl.backbones.base import StagedConfig, renamed
from localsl.core.architecture import Backbone, LocalLayer
from localsl.core.layers import AvgPoolTo, activation, pooled
from localsl.core.settings import Problem, number, ruled

WIDTHS = [64, 128, 256, 512, 512]
PUBLISHED = {"vgg13": ([2] * 5, WIDTHS), "vgg19": ([2, 2, 4, 4, 4], WIDTHS)}

# Hidden units of AugLocal's classifiers on ImageNet, in place of the network's own 4096.
AUXILIARY_HIDDEN = 512


@dataclass(kw_only=True)
class VGG(StagedConfig):
    """Stages of 3x3 convolutions with bias, BatchNorm and ReLU, each stage ended by a pooling to half the size.

    Attributes:
        hidden: units of the two hidden layers of ImageNet's classifier; 0 for one linear layer on the pooled
            features.
    """

    hidden: int = ruled(number(0, at_most=65536))

    def problems(self) -> Iterator[Problem]:
        """Also of a name that says something else."""
        yield from super().problems()
        yield from renamed(self, PUBLISHED)

    def local_layers(self) -> list[LocalLayer]:
        """Every convolution; a stage's first halves the image."""
        return list(self.staged())

    def layer_like(self, index: int, c_in: int, stride: int) -> nn.Module:
        """A convolution as wide as local layer `index`, with a pooling before it for a stride of 2."""
        width = self.local_layers()[index].channels
        pool = [("pool", _halving())] if stride == 2 else []
        convolution = nn.Conv2d(c_in, width, 3, padding=1)
        rest = [("conv", convolution), ("norm", nn.BatchNorm2d(width))]
        return nn.Sequential(OrderedDict([*pool, *rest, ("relu", activation(self.negative_slope))]))

    def auxiliary_strides(self, layer: int, selected: list[int]) -> list[int]:
        """One pooling where the width differs from the one before, whatever a jump skips (AugLocal's code)."""
        layers = self.local_layers()
        widths = [layers[index].channels for index in (layer, *selected)]
        return [2 if before != after else 1 for before, after in pairwise(widths)]

    def auxiliary_classifier(self, width: int, outputs: int, norm: bool) -> list[nn.Module]:
        """On ImageNet as the network's own but narrower, with BatchNorm and without dropout."""
        if not self.hidden:
            return super().auxiliary_classifier(width, outputs, norm)
        layers = pooled()
        for before in (width, AUXILIARY_HIDDEN):
            hidden = [nn.Linear(before, AUXILIARY_HIDDEN), nn.BatchNorm1d(AUXILIARY_HIDDEN)]
            layers += [*hidden, nn.ReLU(inplace=True)]
        return [*layers, nn.Linear(AUXILIARY_HIDDEN, outputs)]

    def initialize_auxiliary(self, network: nn.Module) -> None:
        """On ImageNet auxiliary networks keep torch's weights, as released: they are built after the start."""
        if not self.hidden:
            super().initialize_auxiliary(network)

    def make_classifier(self, width: int, num_classes: int) -> nn.Module:
        """After a last pooling, on ImageNet 7x7 features, two hidden layers and dropout."""
        if not self.hidden:
            return nn.Sequential(_halving(), *pooled(), nn.Linear(width, num_classes))
        layers: list[nn.Module] = [_halving(), AvgPoolTo(7), nn.Flatten()]
        for before in (49 * width, self.hidden):
            layers += [nn.Linear(before, self.hidden), nn.ReLU(inplace=True), nn.Dropout(0.5)]
        return nn.Sequential(*layers, nn.Linear(self.hidden, num_classes))

    def build(self, num_classes: int) -> Backbone:
        """On ImageNet biases start at 0, linear layers N(0, 0.01^2)."""
        backbone = super().build(num_classes)
        if self.hidden:
            _start_as_imagenet(backbone)
        return backbone

    def torchvision_name(self, key: str) -> str:
        """The entry's name in torchvision's vgg13_bn and its like."""
        if not self.hidden:
            return super().torchvision_name(key)
        part, place, *rest = key.split(".")
        if part == "classifier":
            return f"classifier.{int(place) - 3}.{rest[-1]}"  # ours has the poolings too
        stage = self.local_layers()[int(place)].stage
        convolution = 3 * int(place) + stage - 1  # each layer is three entries, each pooling one
        return f"features.{convolution + (rest[0] == 'norm')}.{rest[-1]}"


def _halving() -> nn.Module:
    return nn.MaxPool2d(2, ceil_mode=True)  # up, so that something is left of small images


def _start_as_imagenet(backbone: Backbone) -> None:
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
