"""ResNets and ResNeXts for ImageNet (He et al. 2016; Xie et al. 2017), as torchvision builds them.

The stride of a bottleneck is in its 3x3 convolution, and no BatchNorm starts at zero (AugLocal's code).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from localsl.backbones.base import StagedConfig, renamed
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
    """1x1, 3x3 (grouped) and 1x1 convolution and a shortcut."""

    def __init__(self, c_in: int, inner: int, c_out: int, stride: int, groups: int, negative_slope: float):
        super().__init__()
        self.negative_slope = negative_slope
        self.conv1, self.bn1 = conv_bn(c_in, inner, 1)
        self.conv2, self.bn2 = conv_bn(inner, inner, 3, stride, groups)
        self.conv3, self.bn3 = conv_bn(inner, c_out, 1)
        self.shortcut = shortcut(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, s, s) to (N, c_out, ceil(s / stride), ceil(s / stride))."""
        y = rectified(self.bn1(self.conv1(x)), self.negative_slope)
        y = rectified(self.bn2(self.conv2(y)), self.negative_slope)
        return rectified(self.bn3(self.conv3(y)) + self.shortcut(x), self.negative_slope)


@dataclass(kw_only=True)
class ResNet(StagedConfig):
    """A stem that shrinks the image to a quarter, and stages of blocks.

    Attributes:
        block: basic, or bottleneck, whose output is four times as wide as its stage.
        groups, width_per_group: of a bottleneck's 3x3 convolution, the width at 64 channels; 32 and 8 are
            ResNeXt's 32x8d.
    """

    block: str = ruled(one_of(*EXPANSION))
    groups: int = ruled(number(1, at_most=65536), default=1)
    width_per_group: int = ruled(number(1, at_most=65536), default=64)

    def problems(self) -> Iterator[Problem]:
        """Also of a name that says something else."""
        yield from super().problems()
        yield from renamed(self, PUBLISHED)

    def local_layers(self) -> list[LocalLayer]:
        """The stem, then every block; stages after the first start with stride 2."""
        return [LocalLayer("stem", self.widths[0], 4, is_stem=True), *self.staged(EXPANSION[self.block])]

    def layer_like(self, index: int, c_in: int, stride: int) -> nn.Module:
        """A block as wide as local layer `index`; for the stem too, which AugLocal never selects."""
        layer = self.local_layers()[index]
        width, slope = self.widths[layer.stage - 1], self.negative_slope
        if self.block == "basic":
            return BasicBlock(c_in, width, stride, slope)
        inner = int(width * self.width_per_group / 64) * self.groups
        return Bottleneck(c_in, inner, width * EXPANSION[self.block], stride, self.groups, slope)

    def make_stem(self, width: int) -> nn.Module:
        """A 7x7 convolution and a pooling, of stride 2 each."""
        pool = nn.MaxPool2d(3, 2, padding=1)
        return nn.Sequential(*conv_bn(3, width, 7, 2), activation(self.negative_slope), pool)

    def torchvision_name(self, key: str) -> str:
        """The entry's name in torchvision's resnet34, resnet101, resnext101_32x8d and their like."""
        part, _, rest = key.partition(".")
        place, _, entry = rest.partition(".")
        if part == "classifier":
            return f"fc.{entry}"
        if place == "0":
            return {"0": "conv1.", "1": "bn1."}[entry.partition(".")[0]] + entry.partition(".")[2]
        stage_and_block = self.local_layers()[int(place)].name
        return f"layer{stage_and_block}.{entry.replace('shortcut.', 'downsample.')}"
