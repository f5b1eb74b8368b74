"""ResNets and ResNeXts for ImageNet (He et al. 2016; Xie et al. 2017), as torchvision builds them.

As in AugLocal's code, a bottleneck has its stride in the 3x3 convolution, and no BatchNorm starts at zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from localsl.backbones.base import StagedConfig, name_conflicts
from localsl.backbones.cifar_resnet import BasicBlock, shortcut
from localsl.core.architecture import LocalLayer
from localsl.core.layers import activation, conv_bn, rectified
from localsl.core.settings import Problem, number, one_of, ruled

EXPANSION = {"basic": 1, "bottleneck": 4}

WIDTHS = [64, 128, 256, 512]
PUBLISHED = {
    "resnet34": ([3, 4, 6, 3], WIDTHS),
    "resnet101": ([3, 4, 23, 3], WIDTHS),
    "resnet152": ([3, 8, 36, 3], WIDTHS),
    "resnext101_32x8d": ([3, 4, 23, 3], WIDTHS),
}


class Bottleneck(nn.Module):
    """A bottleneck: 1x1, grouped 3x3 and 1x1 convolutions, and a shortcut."""

    def __init__(self, c_in: int, inner: int, c_out: int, stride: int, groups: int, negative_slope: float):
        super().__init__()
        self.negative_slope = negative_slope
        self.conv1, self.bn1 = conv_bn(c_in, inner, 1)
        self.conv2, self.bn2 = conv_bn(inner, inner, 3, stride, groups)
        self.conv3, self.bn3 = conv_bn(inner, c_out, 1)
        self.shortcut = shortcut(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, c_in, s, s) to (N, c_out, ceil(s / stride), ceil(s / stride))."""
        y = rectified(self.bn1(self.conv1(x)), self.negative_slope)
        y = rectified(self.bn2(self.conv2(y)), self.negative_slope)
        return rectified(self.bn3(self.conv3(y)) + self.shortcut(x), self.negative_slope)


@dataclass(kw_only=True)
class ResNet(StagedConfig):
    """A stem that downsamples by four, and stages of blocks.

    Attributes:
        block: `basic`, or `bottleneck`, whose output is four times as wide as its stage.
        groups: groups of a bottleneck's 3x3 convolution.
        width_per_group: channels per group in a stage of width 64; 32 groups of 8 channels are ResNeXt's 32x8d.
    """

    block: str = ruled(one_of(*EXPANSION))
    groups: int = ruled(number(1, at_most=65536), default=1)
    width_per_group: int = ruled(number(1, at_most=65536), default=64)

    def problems(self) -> Iterator[Problem]:
        """The problems of `StagedConfig`, and the name of a different published network."""
        yield from super().problems()
        yield from name_conflicts(self, PUBLISHED)

    def local_layers(self) -> list[LocalLayer]:
        """The stem and all blocks; all stages but the first begin with stride 2."""
        return [LocalLayer("stem", self.widths[0], 4, is_stem=True), *self.staged(EXPANSION[self.block])]

    def layer_like(self, index: int, c_in: int, stride: int) -> nn.Module:
        """A block as wide as local layer `index`; for the stem, which AugLocal never selects, a block as well."""
        layer = self.local_layers()[index]
        width, slope = self.widths[layer.stage - 1], self.negative_slope
        if self.block == "basic":
            return BasicBlock(c_in, width, stride, slope)
        inner = int(width * self.width_per_group / 64) * self.groups
        return Bottleneck(c_in, inner, width * EXPANSION[self.block], stride, self.groups, slope)

    def make_stem(self, width: int) -> nn.Module:
        """The stem: a 7x7 convolution with BatchNorm and an activation, and a max pooling, each of stride 2."""
        pool = nn.MaxPool2d(3, 2, padding=1)
        return nn.Sequential(*conv_bn(3, width, 7, 2), activation(self.negative_slope), pool)

    def torchvision_name(self, key: str) -> str:
        """The name of a state dict entry in torchvision's ResNets and ResNeXts."""
        part, _, rest = key.partition(".")
        index, _, entry = rest.partition(".")
        if part == "classifier":
            return f"fc.{entry}"
        if index == "0":
            return {"0": "conv1.", "1": "bn1."}[entry.partition(".")[0]] + entry.partition(".")[2]
        stage_and_block = self.local_layers()[int(index)].name
        return f"layer{stage_and_block}.{entry.replace('shortcut.', 'downsample.')}"
