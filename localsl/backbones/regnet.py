"""RegNetX for small images (Radosavovic et al. 2020): a stem and a first and second stage of stride 1.

AugLocal, Table 8, gives the number of local layers only, 23 for RegNetX-400MF; it is that of a much used CIFAR
implementation (kuangliu/pytorch-cifar), whose layers these are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from localsl.backbones.base import StagedConfig, renamed
from localsl.backbones.resnet import Bottleneck
from localsl.core.architecture import LocalLayer
from localsl.core.settings import Problem, number, ruled

PUBLISHED = {"regnetx_400mf": ([1, 2, 7, 12], [32, 64, 160, 384])}


@dataclass(kw_only=True)
class RegNet(StagedConfig):
    """A stem and stages of bottlenecks that keep their width inside.

    Attributes:
        strides: of each stage's first block.
        group_width: channels in a group of the 3x3 convolutions.
        stem: width of the first layer.
    """

    strides: list[int]
    group_width: int = ruled(number(1, at_most=65536))
    stem: int = ruled(number(1, at_most=65536))

    def problems(self) -> Iterator[Problem]:
        """Also of the strides, of groups, and of a name that says something else."""
        yield from super().problems()
        yield from self.per_stage("strides", 1, 2)
        if any(width % self.group_width for width in self.widths):
            what = f"must be multiples of backbone.group_width={self.group_width}"
            yield Problem("backbone.widths", self.widths, what)
        yield from renamed(self, PUBLISHED)

    def strides_of_stages(self) -> list[int]:
        """Of their first blocks."""
        return self.strides

    def local_layers(self) -> list[LocalLayer]:
        """Stem and blocks."""
        return [LocalLayer("stem", self.stem, 1, is_stem=True), *self.staged()]

    def layer_like(self, index: int, c_in: int, stride: int) -> nn.Module:
        """A block as wide as local layer `index`; of stage 1 for the stem, which AugLocal never selects."""
        width = self.widths[self.local_layers()[index].stage - 1]
        return Bottleneck(c_in, width, width, stride, width // self.group_width, self.negative_slope)
