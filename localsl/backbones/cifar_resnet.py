"""ResNets for small images: 20, 32, 44, 56, 110 and any other 6n + 2 (He et al. 2016, section 4.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from localsl.backbones.base import StagedConfig, renamed
from localsl.core.architecture import LocalLayer
from localsl.core.layers import conv_bn, rectified
from localsl.core.settings import Problem


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: identity, or 1x1 convolution and BatchNorm where shapes differ."""

    def __init__(self, c_in: int, c_out: int, stride: int, negative_slope: float = 0.0):
        super().__init__()
        self.negative_slope = negative_slope
        self.conv1, self.bn1 = conv_bn(c_in, c_out, 3, stride)
        self.conv2, self.bn2 = conv_bn(c_out, c_out, 3)
        self.shortcut = shortcut(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, s, s) to (N, c_out, ceil(s / stride), ceil(s / stride))."""
        y = rectified(self.bn1(self.conv1(x)), self.negative_slope)
        return rectified(self.bn2(self.conv2(y)) + self.shortcut(x), self.negative_slope)


def shortcut(c_in: int, c_out: int, stride: int) -> nn.Module:
    """Identity, or a 1x1 convolution and BatchNorm where shapes differ."""
    same = stride == 1 and c_in == c_out
    return nn.Identity() if same else nn.Sequential(*conv_bn(c_in, c_out, 1, stride))


@dataclass(kw_only=True)
class CifarResNet(StagedConfig):
    """A stem of one convolution and stages of basic blocks."""

    def problems(self) -> Iterator[Problem]:
        """Also of a name that says something else."""
        yield from super().problems()
        match = re.fullmatch(r"resnet(\d+)", self.name)
        if match:
            each = (int(match[1]) - 2) // 6
            yield from renamed(self, {self.name: ([each] * 3, [16, 32, 64])})

    def local_layers(self) -> list[LocalLayer]:
        """The stem, then every block; stages after the first start with stride 2."""
        return [LocalLayer("stem", self.widths[0], 1, is_stem=True), *self.staged()]

    def layer_like(self, index: int, c_in: int, stride: int) -> nn.Module:
        """A block as wide as local layer `index`; for the stem too, which AugLocal never selects."""
        return BasicBlock(c_in, self.local_layers()[index].channels, stride, self.negative_slope)
