"""ResNets for small images: 20, 32, 44, 56, 110 and any other 6n + 2 (He et al. 2016, section 4.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from localsl.backbones import Backbone, LocalLayer
from localsl.init import normal_fan_out
from localsl.schema import Problem

if TYPE_CHECKING:
    from localsl.settings import BackboneConfig


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: identity, or 1x1 convolution and BatchNorm where shapes differ."""

    def __init__(self, c_in: int, c_out: int, stride: int, negative_slope: float = 0.0):
        super().__init__()
        self.negative_slope = negative_slope
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = nn.Identity()
        if stride != 1 or c_in != c_out:
            projection = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, s, s) to (N, c_out, ceil(s / stride), ceil(s / stride))."""
        y = rectified(self.bn1(self.conv1(x)), self.negative_slope)
        return rectified(self.bn2(self.conv2(y)) + self.shortcut(x), self.negative_slope)


def rectified(x: Tensor, negative_slope: float) -> Tensor:
    """(Leaky) ReLU, in place."""
    return F.leaky_relu(x, negative_slope, inplace=True) if negative_slope else F.relu(x, inplace=True)


def problems(settings: BackboneConfig) -> Iterator[Problem]:
    """Every stage needs blocks and a width."""
    blocks, widths = settings.blocks, settings.widths
    if not blocks or min(blocks) < 1:
        yield Problem("backbone.blocks", blocks, "one number of blocks, at least 1, per stage")
    elif max(blocks) > 1000:
        yield Problem("backbone.blocks", blocks, "at most 1000 blocks per stage")
    if len(widths) != len(blocks) or min(widths, default=0) < 1 or max(widths) > 65536:
        yield Problem(
            "backbone.widths", widths, f"one width, from 1 to 65536, for each of {len(blocks)} stages"
        )
    yield from _misnamed(settings)


def _misnamed(settings: BackboneConfig) -> Iterator[Problem]:
    """Tables of cuts and loss weights are kept by name, so that resnet32 must be ResNet-32."""
    match = re.fullmatch(r"resnet(\d+)", settings.name)
    each = (int(match[1]) - 2) // 6 if match else 0
    if match and (settings.blocks != [each] * 3 or settings.widths != [16, 32, 64]):
        what = f"{settings.name} has blocks [{each}, {each}, {each}] and widths [16, 32, 64]"
        yield Problem("backbone.name", settings.name, what, "type backbone.name=NAME for one of your own")


def local_layers(settings: BackboneConfig) -> list[LocalLayer]:
    """The stem, then every block; stages after the first start with stride 2."""
    layers = [LocalLayer("stem", settings.widths[0], 1)]
    for stage, (count, width) in enumerate(zip(settings.blocks, settings.widths, strict=True), 1):
        for block in range(count):
            stride = 2 if stage > 1 and block == 0 else 1
            layers.append(LocalLayer(f"{stage}.{block}", width, stride))
    return layers


def layer_like(settings: BackboneConfig, index: int, c_in: int, stride: int) -> nn.Module:
    """A block as wide as local layer `index`; for the stem too, which AugLocal never selects."""
    return BasicBlock(c_in, local_layers(settings)[index].channels, stride, settings.negative_slope)


def build(settings: BackboneConfig, num_classes: int) -> Backbone:
    """Stem, blocks, global average pooling, one linear layer; initialised as all four papers' code does."""
    stem, *blocks = local_layers(settings)
    convolution = nn.Conv2d(3, stem.channels, 3, 1, 1, bias=False)
    slope = settings.negative_slope
    activation = nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)
    layers: list[nn.Module] = [nn.Sequential(convolution, nn.BatchNorm2d(stem.channels), activation)]
    width = stem.channels
    for block in blocks:
        layers.append(BasicBlock(width, block.channels, block.stride, slope))
        width = block.channels
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    backbone = Backbone(layers, nn.Sequential(*pool, nn.Linear(width, num_classes)))
    normal_fan_out(backbone)
    return backbone
