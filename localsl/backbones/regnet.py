"""RegNetX for small images (Radosavovic et al. 2020), with stride 1 in the stem and the first two stages.

AugLocal, Table 8, states only the number of local layers, 23 for RegNetX-400MF. This is the number of a widely used
CIFAR implementation (kuangliu/pytorch-cifar), which this file follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from localsl.backbones.base import StagedConfig, name_conflicts
from localsl.backbones.resnet import Bottleneck
from localsl.core.architecture import LocalLayer
from localsl.core.settings import Problem, number, ruled

PUBLISHED = {"regnetx_400mf": ([1, 2, 7, 12], [32, 64, 160, 384])}


@dataclass(kw_only=True)
class RegNet(StagedConfig):
    """A stem and stages of bottlenecks whose inner convolutions are as wide as their output.

    Attributes:
        strides: stride of each stage's first block.
        group_width: channels per group of the 3x3 convolutions.
        stem: channels of the first layer.
    """

    strides: list[int]
    group_width: int = ruled(number(1, at_most=65536))
    stem: int = ruled(number(1, at_most=65536))

    def problems(self) -> Iterator[Problem]:
        """The problems of `StagedConfig`, of strides and groups, and the name of a different published network."""
        yield from super().problems()
        yield from self.per_stage("strides", 1, 2)
        if any(width % self.group_width for width in self.widths):
            what = f"must be multiples of backbone.group_width={self.group_width}"
            yield Problem("backbone.widths", self.widths, what)
        yield from name_conflicts(self, PUBLISHED)

    def strides_of_stages(self) -> list[int]:
        """The stride of each stage's first block."""
        return self.strides

    def local_layers(self) -> list[LocalLayer]:
        """The stem and all blocks."""
        return [LocalLayer("stem", self.stem, 1, is_stem=True), *self.staged()]

    def layer_like(self, index: int, c_in: int, stride: int) -> nn.Module:
        """A block as wide as local layer `index`; for the stem, which AugLocal never selects, one of stage 1."""
        width = self.widths[self.local_layers()[index].stage - 1]
        return Bottleneck(c_in, width, width, stride, width // self.group_width, self.negative_slope)
