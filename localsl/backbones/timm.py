"""Networks of timm whose parts run one after another (`backbone=timm/resnet18`, `timm/vit_tiny_patch16_224`)."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import timm
import torch
from torch import nn

from localsl.backbones.base import BackboneConfig
from localsl.backbones.wrapping import wrapped
from localsl.backbones.wrapping.division import divide, size
from localsl.backbones.wrapping.tracing import Uncuttable
from localsl.backbones.wrapping.wrapped import Outline, WrappedBackbone
from localsl.core.architecture import LocalLayer
from localsl.core.settings import Problem, first_line


@dataclass(kw_only=True)
class Timm(BackboneConfig):
    """A network of timm without pretrained weights.

    Attributes:
        model: the network's name in timm.
    """

    model: str

    def problems(self) -> Iterator[Problem]:
        """Problems with unknown names, settings without an effect, and networks that cannot be cut."""
        typed = f"timm/{self.model}"
        if not timm.is_model(self.model):
            near = difflib.get_close_matches(self.model, timm.list_models(), n=1)
            what = f"timm {timm.__version__} has no such network"
            yield Problem("backbone", typed, what, f"did you mean backbone=timm/{near[0]}?" if near else "")
            return
        if self.negative_slope:
            what, instead = "timm's activations cannot be changed", "type backbone.negative_slope=0"
            yield Problem("backbone.negative_slope", self.negative_slope, what, instead)
        try:
            _outline(self.model)
        except Uncuttable as reason:
            name, _, tag = self.model.partition(".")
            instead = f"pretrained weights are not loaded: type backbone=timm/{name}" if tag else ""
            yield Problem("backbone", typed, str(reason), instead)

    def misfits(self, image_size: int) -> Iterator[Problem]:
        """The problem that the network does not run on images of this size."""
        reason = _refusal(self.model, image_size)
        if reason:
            what = f"timm/{self.model} does not take images of that size ({reason})"
            own = _own_size(_prototype(self.model))[-1]
            instead = f"type dataset.image_size={own}, the network's own size"
            yield Problem("dataset.image_size", image_size, what, instead)

    def local_layers(self) -> list[LocalLayer]:
        """The blocks and perhaps a stem; steps between two blocks belong to the second."""
        return _outline(self.model).layers

    def sizes(self, image_size: int) -> list[int]:
        """The sizes of the layers' outputs; for images that `misfits` refuses, those of the network's own size."""
        return (
            _outline(self.model).sizes if _refusal(self.model, image_size) else _sizes(self.model, image_size)
        )

    def build(self, num_classes: int) -> WrappedBackbone:
        """Build the network, initialised by timm."""
        model = timm.create_model(self.model, pretrained=False, num_classes=num_classes)
        return _outline(self.model).retrace(model)

    def layers_like(self, start: int, selected: list[int], strides: list[int]) -> list[nn.Module]:
        """Copies of the selected layers, with adapters before them where features do not fit."""
        return wrapped.copies(_outline(self.model), start, selected, strides)


@cache
def _outline(name: str) -> Outline:
    """The division of a network into local layers.

    Raises:
        Uncuttable: if the network cannot be cut.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        prototype = _prototype(name)
        return divide(prototype, torch.zeros(2, *_own_size(prototype)))


@cache
def _prototype(name: str) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=False)
    except Exception as error:  # timm's networks may fail in any way
        raise Uncuttable(f"timm cannot build the network ({first_line(error)})") from error


@cache
def _on_meta(name: str) -> WrappedBackbone:
    """The network on the meta device, in evaluation mode: its layers compute shapes only."""
    return copy.deepcopy(_outline(name).wrap(_prototype(name))).to("meta").eval()


@cache
def _sizes(name: str, image_size: int) -> list[int]:
    """The size of every layer's output for images that the network accepts."""
    network, sizes = _on_meta(name), []
    network.refresh()
    features = torch.empty(2, 3, image_size, image_size, device="meta")
    with torch.no_grad():
        for layer, described in zip(network.layers, _outline(name).layers, strict=True):
            features = layer(features)
            sizes.append(size(features, described.layout))
    return sizes


@cache
def _refusal(name: str, image_size: int) -> str:
    """The reason why a network does not run on images of a size; empty if it does."""
    try:
        with torch.no_grad():
            _on_meta(name)(torch.empty(2, 3, image_size, image_size, device="meta"))
    except Exception as error:  # timm's networks may fail in any way
        return first_line(error)
    return ""


def _own_size(prototype: nn.Module) -> tuple[int, int, int]:
    return getattr(prototype, "default_cfg", {}).get("input_size", (3, 224, 224))
