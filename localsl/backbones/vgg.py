"""VGG with BatchNorm (Simonyan and Zisserman 2015), in which every convolution is a local layer and none is a stem.

As in AugLocal's code, a pooling belongs to the layer after it, so that it runs after a cut between them. AugLocal did
not release its VGG-19 for small images; here it is VGG with a linear classifier.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from localsl.backbones.base import StagedConfig, name_conflicts
from localsl.core.architecture import Backbone, LocalLayer
from localsl.core.layers import AvgPoolTo, activation, pooled
from localsl.core.settings import Problem, number, ruled

WIDTHS = [64, 128, 256, 512, 512]
PUBLISHED = {"vgg13": ([2] * 5, WIDTHS), "vgg19": ([2, 2, 4, 4, 4], WIDTHS)}

# Hidden units of AugLocal's auxiliary classifiers on ImageNet; the network's own classifier has 4096.
AUXILIARY_HIDDEN = 512


@dataclass(kw_only=True)
class VGG(StagedConfig):
    """Stages of 3x3 convolutions with bias, BatchNorm and ReLU, each followed by a pooling to half the size.

    Attributes:
        hidden: units in each of the two hidden layers of the classifier for ImageNet; 0 for a linear classifier on
            globally pooled features.
    """

    hidden: int = ruled(number(0, at_most=65536))

    def problems(self) -> Iterator[Problem]:
        """The problems of `StagedConfig`, and the name of a different published network."""
        yield from super().problems()
        yield from name_conflicts(self, PUBLISHED)

    def local_layers(self) -> list[LocalLayer]:
        """All convolutions; the first of every stage but stage 1 halves the image."""
        return list(self.staged())

    def layer_like(self, index: int, c_in: int, stride: int) -> nn.Module:
        """A convolution as wide as local layer `index`, with a pooling before it if the stride is 2."""
        width = self.local_layers()[index].channels
        pool = [("pool", _halving())] if stride == 2 else []
        convolution = nn.Conv2d(c_in, width, 3, padding=1)
        rest = [("conv", convolution), ("norm", nn.BatchNorm2d(width))]
        return nn.Sequential(OrderedDict([*pool, *rest, ("relu", activation(self.negative_slope))]))

    def auxiliary_strides(self, layer: int, selected: list[int]) -> list[int]:
        """Stride 2, by a pooling, where the width changes, however many poolings are skipped (AugLocal's code)."""
        layers = self.local_layers()
        widths = [layers[index].channels for index in (layer, *selected)]
        return [2 if before != after else 1 for before, after in pairwise(widths)]

    def auxiliary_classifier(self, width: int, outputs: int, norm: bool) -> list[nn.Module]:
        """On ImageNet, a narrower form of the network's own classifier with BatchNorm instead of dropout."""
        if not self.hidden:
            return super().auxiliary_classifier(width, outputs, norm)
        layers = pooled()
        for before in (width, AUXILIARY_HIDDEN):
            hidden = [nn.Linear(before, AUXILIARY_HIDDEN), nn.BatchNorm1d(AUXILIARY_HIDDEN)]
            layers += [*hidden, nn.ReLU(inplace=True)]
        return [*layers, nn.Linear(AUXILIARY_HIDDEN, outputs)]

    def initialize_auxiliary(self, network: nn.Module) -> None:
        """Keep torch's defaults on ImageNet: the released code adds these networks after its initialisation."""
        if not self.hidden:
            super().initialize_auxiliary(network)

    def make_classifier(self, width: int, num_classes: int) -> nn.Module:
        """The last pooling and a linear classifier; on ImageNet, two hidden layers with dropout on 7x7 features."""
        if not self.hidden:
            return nn.Sequential(_halving(), *pooled(), nn.Linear(width, num_classes))
        layers: list[nn.Module] = [_halving(), AvgPoolTo(7), nn.Flatten()]
        for before in (49 * width, self.hidden):
            layers += [nn.Linear(before, self.hidden), nn.ReLU(inplace=True), nn.Dropout(0.5)]
        return nn.Sequential(*layers, nn.Linear(self.hidden, num_classes))

    def build(self, num_classes: int) -> Backbone:
        """Build the network; on ImageNet biases start at 0 and linear layers from N(0, 0.01^2)."""
        backbone = super().build(num_classes)
        if self.hidden:
            _initialize_as_imagenet(backbone)
        return backbone

    def torchvision_name(self, key: str) -> str:
        """The name of a state dict entry in torchvision's VGGs with BatchNorm."""
        if not self.hidden:
            return super().torchvision_name(key)
        part, index, *rest = key.split(".")
        if part == "classifier":
            return f"classifier.{int(index) - 3}.{rest[-1]}"  # two poolings and a flattening come first here
        stage = self.local_layers()[int(index)].stage
        convolution = 3 * int(index) + stage - 1  # a layer takes three positions, a pooling one
        return f"features.{convolution + (rest[0] == 'norm')}.{rest[-1]}"


def _halving() -> nn.Module:
    return nn.MaxPool2d(2, ceil_mode=True)  # rounds up, so that small images keep at least one pixel


def _initialize_as_imagenet(backbone: Backbone) -> None:
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
