"""EfficientNet for small images (Tan and Le 2019), with a stem of stride 1 and without the last 1x1 convolution.

AugLocal, Table 8, states only the number of local layers, 17. This is the number of a widely used CIFAR
implementation (kuangliu/pytorch-cifar), which this file follows, except for dropout and stochastic depth, which
AugLocal does not mention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from localsl.backbones.base import StagedConfig, name_conflicts
from localsl.core.architecture import LocalLayer
from localsl.core.layers import conv_bn
from localsl.core.settings import Problem, number, ruled

PUBLISHED = {"efficientnetb0": ([1, 2, 2, 3, 3, 4, 1], [16, 24, 40, 80, 112, 192, 320])}


class SqueezeExcite(nn.Module):
    """Squeeze and excitation: scales each channel by a function of all channels' means (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        squeeze, excite = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), squeeze, nn.SiLU(), excite, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of features (N, channels, s, s)."""
        return x * self.weigh(x)


class MBConv(nn.Module):
    """A mobile inverted bottleneck.

    A 1x1 convolution to `expansion` times the channels, a depthwise convolution, squeeze and excitation with a
    quarter of `c_in` channels, and a 1x1 convolution without activation. The input is added where the shapes agree.
    """

    def __init__(self, c_in: int, c_out: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        inner = expansion * c_in
        expand = [*conv_bn(c_in, inner, 1), nn.SiLU()] if expansion > 1 else []
        depthwise = [*conv_bn(inner, inner, kernel, stride, groups=inner), nn.SiLU()]
        excite = SqueezeExcite(inner, max(1, c_in // 4))
        self.layers = nn.Sequential(*expand, *depthwise, excite, *conv_bn(inner, c_out, 1))
        self.adds = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, c_in, s, s) to (N, c_out, ceil(s / stride), ceil(s / stride))."""
        return x + self.layers(x) if self.adds else self.layers(x)


@dataclass(kw_only=True)
class EfficientNet(StagedConfig):
    """A stem and stages of mobile inverted bottlenecks.

    Attributes:
        strides: stride of each stage's first block.
        expansions, kernels: expansion and kernel size of each stage's blocks.
        stem: channels of the first layer.
    """

    strides: list[int]
    expansions: list[int]
    kernels: list[int]
    stem: int = ruled(number(1, at_most=65536))

    def problems(self) -> Iterator[Problem]:
        """The problems of `StagedConfig`, of the other fields, and the name of a different published network."""
        yield from super().problems()
        yield from self.per_stage("strides", 1, 2)
        yield from self.per_stage("expansions", 1, 64)
        yield from self.per_stage("kernels", 1, 15)
        if any(kernel % 2 == 0 for kernel in self.kernels):
            yield Problem("backbone.kernels", self.kernels, "must be odd, so that stride 1 keeps the size")
        if self.negative_slope:
            what, instead = "the activations are SiLU, which has no slope", "type backbone.negative_slope=0"
            yield Problem("backbone.negative_slope", self.negative_slope, what, instead)
        yield from name_conflicts(self, PUBLISHED)

    def strides_of_stages(self) -> list[int]:
        """The stride of each stage's first block."""
        return self.strides

    def local_layers(self) -> list[LocalLayer]:
        """The stem and all blocks."""
        return [LocalLayer("stem", self.stem, 1, is_stem=True), *self.staged()]

    def layer_like(self, index: int, c_in: int, stride: int) -> nn.Module:
        """A block like local layer `index`; for the stem, which AugLocal never selects, one of stage 1."""
        layer = self.local_layers()[index]
        expansion, kernel = self.expansions[layer.stage - 1], self.kernels[layer.stage - 1]
        return MBConv(c_in, layer.channels, expansion, kernel, stride)

    def make_stem(self, width: int) -> nn.Module:
        """The stem: a 3x3 convolution that keeps the size, BatchNorm, and SiLU."""
        return nn.Sequential(*conv_bn(3, width, 3), nn.SiLU())
