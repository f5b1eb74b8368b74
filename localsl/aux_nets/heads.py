"""Classifier heads: features of a module to logits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from localsl.network import Site


class DGLHead(nn.Sequential):
    """Spatial pooling, three 1x1 convolutions, pooling to 2x2, a classifier of three linear layers.

    As all four papers' baselines build it (AugLocal's code); DGL's own "mlp-sr" head has biases and one
    hidden layer more. Input (N, c, s, s), pooled to ceil(s/4) first; hidden layers have 4c units.
    """

    def __init__(self, channels: int, size: int, classes: int):
        hidden = 4 * channels
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(math.ceil(size / 4))]
        for _ in range(3):
            layers += [nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)]
            layers += [nn.ReLU(inplace=True)]
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        for _ in range(2):
            layers += [nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden)]
            layers += [nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.Linear(hidden, classes))


HEADS = {"dgl": DGLHead}


def build(name: str, site: Site, classes: int) -> nn.Module:
    """The head `name` for the features at `site`."""
    return HEADS[name](site.channels, site.size, classes)
