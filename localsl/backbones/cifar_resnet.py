"""ResNets for small images, of 20, 32, 44, 56, 110 or any other 6n + 2 layers (He et al. 2016, section 4.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from localsl.backbones.base import StagedConfig, name_conflicts
from localsl.core.architecture import LocalLayer
from localsl.core.layers import conv_bn, rectified
from localsl.core.settings import Problem


class BasicBlock(nn.Module):
    """A basic block: two 3x3 convolutions and a shortcut."""

    def __init__(self, c_in: int, c_out: int, stride: int, negative_slope: float = 0.0):
        super().__init__()
        self.negative_slope = negative_slope
        self.conv1, self.bn1 = conv_bn(c_in, c_out, 3, stride)
        self.conv2, self.bn2 = conv_bn(c_out, c_out, 3)
        self.shortcut = shortcut(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, c_in, s, s) to (N, c_out, ceil(s / stride), ceil(s / stride))."""
        y = rectified(self.bn1(self.conv1(x)), self.negative_slope)
        return rectified(self.bn2(self.conv2(y)) + self.shortcut(x), self.negative_slope)


def shortcut(c_in: int, c_out: int, stride: int) -> nn.Module:
    """The identity, or a 1x1 convolution and BatchNorm where the shapes of input and output differ."""
    same = stride == 1 and c_in == c_out
    return nn.Identity() if same else nn.Sequential(*conv_bn(c_in, c_out, 1, stride))


@dataclass(kw_only=True)
class CifarResNet(StagedConfig):
    """A stem of one convolution and stages of basic blocks."""

    def problems(self) -> Iterator[Problem]:
        """The problems of `StagedConfig`, and the name of a different published network."""
        yield from super().problems()
        match = re.fullmatch(r"resnet(\d+)", self.name)
        if match:
            blocks = (int(match[1]) - 2) // 6
            yield from name_conflicts(self, {self.name: ([blocks] * 3, [16, 32, 64])})

    def local_layers(self) -> list[LocalLayer]:
        """The stem and all blocks; all stages but the first begin with stride 2."""
        return [LocalLayer("stem", self.widths[0], 1, is_stem=True), *self.staged()]

    def layer_like(self, index: int, c_in: int, stride: int) -> nn.Module:
        """A block as wide as local layer `index`; for the stem, which AugLocal never selects, a block as well."""
        return BasicBlock(c_in, self.local_layers()[index].channels, stride, self.negative_slope)
