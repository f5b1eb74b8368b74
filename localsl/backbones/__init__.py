"""Backbones, one file per family: each is an ordered list of local layers and a classifier.

A family's file has four functions, all of the same settings (`cfg.backbone`): `problems`, `local_layers`
(what the layers are, without building them), `build`, and `layer_like` (a layer of the same kind for other
input widths and strides, which AugLocal's auxiliary networks are made of).
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
    from localsl.settings import BackboneConfig


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

    @property
    def stage(self) -> int:
        """Its stage, from 1; the stem counts as the first's."""
        return 1 if self.name == "stem" else int(self.name.split(".")[0])


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


def layer_like(settings: BackboneConfig, index: int, c_in: int, stride: int) -> nn.Module:
    """A layer of the kind and width of local layer `index`, from `c_in` channels and with this stride."""
    return _family(settings).layer_like(settings, index, c_in, stride)


def build(settings: BackboneConfig, num_classes: int) -> Backbone:
    """The network, initialised as its family does."""
    return _family(settings).build(settings, num_classes)


def _family(settings: BackboneConfig) -> ModuleType:
    return importlib.import_module(f"{__name__}.{settings.family}")
