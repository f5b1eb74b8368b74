"""Backbones, one file per family: each is an ordered list of local layers and a classifier.

A family's file has three functions, all of the same settings (`cfg.backbone`): `problems`,
`local_layers` (what the layers are, without building them) and `build`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from torch import nn

from localsl.schema import Problem

if TYPE_CHECKING:
    from localsl.config import BackboneConfig


@dataclass(frozen=True)
class LocalLayer:
    """One local layer: the smallest piece that a network is cut into.

    Attributes:
        name: "stem", or "s.l" for block l (from 0) of stage s (from 1), as the papers' code counts them.
        channels: of its output.
        stride: by which it shrinks the image, rounding up.
    """

    name: str
    channels: int
    stride: int


class Backbone(nn.Module):
    """The network that is kept: `layers`, as many as `local_layers` lists, then `classifier` to logits."""

    def __init__(self, layers: list[nn.Module], classifier: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.classifier = classifier


def families() -> list[str]:
    """Every family: the files beside this one, sorted."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__))


def problems(settings: BackboneConfig) -> Iterator[Problem]:
    """What is wrong with the settings of a backbone."""
    if settings.family not in families():
        yield Problem("backbone.family", settings.family, f"one of {', '.join(families())}")
    else:
        yield from _family(settings).problems(settings)


def local_layers(settings: BackboneConfig) -> list[LocalLayer]:
    """The local layers, stem first, without building anything."""
    return _family(settings).local_layers(settings)


def build(settings: BackboneConfig, num_classes: int) -> Backbone:
    """The network, initialised as its family does."""
    return _family(settings).build(settings, num_classes)


def _family(settings: BackboneConfig) -> ModuleType:
    return importlib.import_module(f"{__name__}.{settings.family}")
