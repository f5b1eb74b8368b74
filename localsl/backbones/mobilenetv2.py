"""MobileNetV2 for small images (Sandler et al. 2018), without the first two halvings of the image.

AugLocal, Table 8, states only the number of local layers, 19. This is the number of a widely used CIFAR
implementation (kuangliu/pytorch-cifar), which this file follows: it has ReLU, and a shortcut wherever the stride is
1, with a projection where the widths differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from localsl.backbones.base import StagedConfig, name_conflicts
from localsl.backbones.cifar_resnet import shortcut
from localsl.core.architecture import LocalLayer
from localsl.core.layers import activation, conv_bn, rectified
from localsl.core.settings import Problem, number, ruled

PUBLISHED = {"mobilenetv2": ([1, 2, 3, 4, 3, 3, 1], [16, 24, 32, 64, 96, 160, 320])}


class InvertedResidual(nn.Module):
    """An inverted residual block.

    A 1x1 convolution to `expansion` times the channels, a 3x3 depthwise convolution, a 1x1 convolution without
    activation, and a shortcut if the stride is 1.
    """

    def __init__(self, c_in: int, c_out: int, expansion: int, stride: int, negative_slope: float):
        super().__init__()
        self.negative_slope = negative_slope
        inner = expansion * c_in
        self.conv1, self.bn1 = conv_bn(c_in, inner, 1)
        self.conv2, self.bn2 = conv_bn(inner, inner, 3, stride, groups=inner)
        self.conv3, self.bn3 = conv_bn(inner, c_out, 1)
        self.shortcut = shortcut(c_in, c_out, 1) if stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, c_in, s, s) to (N, c_out, ceil(s / stride), ceil(s / stride))."""
        y = rectified(self.bn1(self.conv1(x)), self.negative_slope)
        y = rectified(self.bn2(self.conv2(y)), self.negative_slope)
        y = self.bn3(self.conv3(y))
        return y if self.shortcut is None else y + self.shortcut(x)


@dataclass(kw_only=True)
class MobileNetV2(StagedConfig):
    """A stem, stages of inverted residual blocks, and a 1x1 convolution, all of them local layers.

    Attributes:
        strides: stride of each stage's first block.
        expansions: expansion of each stage's blocks.
        stem, final: channels of the first and of the last layer.
    """

    strides: list[int]
    expansions: list[int]
    stem: int = ruled(number(1, at_most=65536))
    final: int = ruled(number(1, at_most=65536))

    def problems(self) -> Iterator[Problem]:
        """The problems of `StagedConfig`, of the other lists, and the name of a different published network."""
        yield from super().problems()
        yield from self.per_stage("strides", 1, 2)
        yield from self.per_stage("expansions", 1, 64)
        yield from name_conflicts(self, PUBLISHED)

    def strides_of_stages(self) -> list[int]:
        """The stride of each stage's first block."""
        return self.strides

    def local_layers(self) -> list[LocalLayer]:
        """The stem, all blocks, and the last convolution."""
        stage = len(self.blocks) + 1
        last = LocalLayer(f"{stage}.0", self.final, 1, stage)
        return [LocalLayer("stem", self.stem, 1, is_stem=True), *self.staged(), last]

    def layer_like(self, index: int, c_in: int, stride: int) -> nn.Module:
        """A layer like local layer `index`; for the stem, which AugLocal never selects, a block of stage 1."""
        layer = self.local_layers()[index]
        if layer.stage > len(self.blocks):
            return nn.Sequential(*conv_bn(c_in, self.final, 1, stride), activation(self.negative_slope))
        expansion = self.expansions[layer.stage - 1]
        return InvertedResidual(c_in, layer.channels, expansion, stride, self.negative_slope)
