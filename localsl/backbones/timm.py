"""Any network of timm whose parts run one after another (`backbone=timm/resnet18`, `timm/vit_tiny_patch16_224`)."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import timm
import torch
from torch import nn

from localsl.backbones import wrapped
from localsl.backbones.base import BackboneConfig
from localsl.backbones.tracing import Uncuttable
from localsl.backbones.wrapped import Outline, WrappedBackbone
from localsl.core.architecture import LocalLayer
from localsl.core.settings import Problem


@dataclass(kw_only=True)
class Timm(BackboneConfig):
    """One of timm's networks, without pretrained weights.

    Attributes:
        model: its name in timm.
    """

    model: str

    def problems(self) -> Iterator[Problem]:
        """Names that timm does not know, and networks that cannot be cut."""
        typed = f"timm/{self.model}"
        if not timm.is_model(self.model):
            near = difflib.get_close_matches(self.model, timm.list_models(), n=1)
            what = f"timm {timm.__version__} has no such network"
            yield Problem("backbone", typed, what, f"did you mean backbone=timm/{near[0]}?" if near else "")
            return
        if self.negative_slope:
            what, instead = "timm's activations keep their slope", "type backbone.negative_slope=0"
            yield Problem("backbone.negative_slope", self.negative_slope, what, instead)
        try:
            _outline(self.model)
        except Uncuttable as reason:
            yield Problem("backbone", typed, str(reason))

    def local_layers(self) -> list[LocalLayer]:
        """Blocks; what stands before the first is the stem, what stands between two belongs to the second."""
        return _outline(self.model).layers

    def sizes(self, image_size: int) -> list[int]:
        """As for any network, but tokens, whose number a network fixes, and vectors."""
        found = _outline(self.model)
        images = super().sizes(image_size)
        grid = [layer.layout in ("image", "map") for layer in found.layers]
        return [size if free else fixed for size, fixed, free in zip(images, found.sizes, grid, strict=True)]

    def build(self, num_classes: int) -> WrappedBackbone:
        """The network, initialised as timm does."""
        model = timm.create_model(self.model, pretrained=False, num_classes=num_classes)
        return _outline(self.model).anew(model)

    def layers_like(self, start: int, selected: list[int], strides: list[int]) -> list[nn.Module]:
        """Copies of the selected layers, each behind what makes the features before it fit."""
        return wrapped.copies(_outline(self.model), start, selected, strides)


@cache
def _outline(name: str) -> Outline:
    """How a network is cut.

    Raises:
        Uncuttable: if it cannot be.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        prototype = timm.create_model(name, pretrained=False)
        size = getattr(prototype, "default_cfg", {}).get("input_size", (3, 224, 224))
        return wrapped.outline(prototype, torch.zeros(2, *size))
