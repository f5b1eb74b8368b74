"""Any convolutional network of timm whose blocks run one after another (`backbone=timm/resnet18`).

Its modules are watched in one forward pass on tensors without data. A module whose parts each take what the one
before gave is a chain, and chains are opened down to the blocks: what remains are residual blocks and their
like, plain convolutions, and what stands between them.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor, nn

from localsl.backbones.base import Backbone, BackboneConfig, LocalLayer
from localsl.layers import conv_bn
from localsl.schema import Problem, first_line


class Unlistable(Exception):
    """A network that cannot be cut into blocks; the message says why."""


@dataclass
class Call:
    """A module's turn in a forward pass.

    Attributes:
        path: the module's name in the network.
        input: the only argument, or None if there are others.
        inner: the turns of modules that it called itself.
    """

    path: str
    module: nn.Module
    input: Any
    output: Any = None
    inner: list[Call] = field(default_factory=list)

    @property
    def convolutions(self) -> int:
        """How many it has."""
        return sum(isinstance(m, nn.Conv2d) for m in self.module.modules())

    @property
    def shrinks(self) -> int:
        """By how much."""
        return round(self.input.shape[-1] / self.output.shape[-1])

    @property
    def pools_all(self) -> bool:
        """Whether no image is left behind it: there the classifier begins."""
        is_image = isinstance(self.output, Tensor) and self.output.ndim == 4
        return not is_image or (self.output.shape[-1] == 1 < self.input.shape[-1])


@dataclass(frozen=True)
class Outline:
    """A network as local layers.

    Attributes:
        layers: as described.
        paths: the names of the modules of each layer.
        classifier: and those after the last one.
        prototype: the network, to copy blocks from.
    """

    layers: list[LocalLayer]
    paths: list[list[str]]
    classifier: list[str]
    prototype: nn.Module


@dataclass(kw_only=True)
class Settings(BackboneConfig):
    """One of timm's networks, without pretrained weights.

    Attributes:
        model: its name in timm.
    """

    model: str

    def problems(self) -> Iterator[Problem]:
        """Names that timm does not know, and networks that have no list of blocks."""
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
            outline(self.model)
        except Unlistable as reason:
            name, _, tag = self.model.partition(".")
            instead = f"weights are not loaded: type backbone=timm/{name}" if tag else ""
            yield Problem("backbone", typed, f"cannot be cut into blocks: {reason}", instead)

    def misfits(self, image_size: int) -> Iterator[Problem]:
        """Images that it does not run on."""
        reason = _refusal(self.model, image_size)
        if reason:
            own = _own_size(outline(self.model).prototype)
            what = f"timm/{self.model} does not take images of that size ({reason})"
            yield Problem("dataset.image_size", image_size, what, f"type dataset.image_size={own[-1]}, its own")

    def local_layers(self) -> list[LocalLayer]:
        """Blocks; what stands before the first is the stem, what stands between two belongs to the second."""
        return outline(self.model).layers

    def build(self, num_classes: int) -> Backbone:
        """The network in pieces, initialised as timm does."""
        model = timm.create_model(self.model, pretrained=False, num_classes=num_classes)
        found = outline(self.model)
        return Backbone([_chain(model, paths) for paths in found.paths], _chain(model, found.classifier))

    def layer_like(self, index: int, c_in: int, stride: int) -> nn.Module:
        """A copy of local layer `index`, behind what makes the features fit: average pooling where it lacks the
        stride, and a 1x1 convolution with BatchNorm where it takes other widths. In place of one with a larger
        stride stands the nearest layer of its width without, if there is one.
        """
        found = outline(self.model)
        layers = found.layers
        if stride < layers[index].stride:
            width, asked = layers[index].channels, index
            alike = [i for i, layer in enumerate(layers) if (layer.channels, layer.stride) == (width, stride)]
            index = min(alike, key=lambda i: abs(i - asked), default=index)
        takes = layers[index - 1].channels if index else 3
        fit: list[nn.Module] = []
        if stride > layers[index].stride:
            fit.append(nn.AvgPool2d(2, ceil_mode=True))
        if c_in != takes:
            fit += conv_bn(c_in, takes, 1)
        copied = copy.deepcopy(_chain(found.prototype, found.paths[index]))
        return nn.Sequential(*fit, copied.to(torch.get_default_device()))


def _chain(model: nn.Module, paths: list[str]) -> nn.Sequential:
    return nn.Sequential(*(model.get_submodule(path) for path in paths))


@cache
def outline(name: str) -> Outline:
    """How a network is cut.

    Raises:
        Unlistable: if it cannot be.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        try:
            prototype = timm.create_model(name, pretrained=False)
        except Exception as error:  # whatever timm's networks may refuse
            raise Unlistable(f"timm cannot build it ({first_line(error)})") from error
    root = _watched(prototype)
    calls = _units(root)
    if len(calls) < 2:
        raise Unlistable("its parts do not run one after another")
    head = next((i for i, call in enumerate(calls) if call.pools_all), len(calls))
    groups, rest = _grouped(calls[:head])
    classifier = [*rest, *calls[head:]]
    if len(groups) < 2:
        raise Unlistable("it has fewer than two convolutional blocks")
    kept = [*(call for group in groups for call in group), *classifier]
    parameters = [p for call in kept for p in call.module.parameters()]
    if len(parameters) != len(set(parameters)) or set(parameters) != set(root.module.parameters()):
        raise Unlistable("some of its parameters belong to no block, or to several")
    paths = [[call.path for call in group] for group in groups]
    return Outline(_described(groups), paths, [call.path for call in classifier], prototype)


@cache
def _refusal(name: str, image_size: int) -> str:
    """Why a network does not run on images of a size; empty if it does."""
    model = copy.deepcopy(outline(name).prototype).to("meta").eval()
    try:
        with torch.no_grad():
            model(torch.empty(2, 3, image_size, image_size, device="meta"))
    except Exception as error:  # whatever a network of timm's may do with an image
        return first_line(error)
    return ""


def _own_size(prototype: nn.Module) -> tuple[int, int, int]:
    return getattr(prototype, "default_cfg", {}).get("input_size", (3, 224, 224))


def _watched(prototype: nn.Module) -> Call:
    """The tree of calls of one evaluation."""
    model = copy.deepcopy(prototype).to("meta").eval()
    paths = {module: path for path, module in model.named_modules()}
    outermost = Call("", model, None)
    stack = [outermost]

    def before(module: nn.Module, inputs: tuple, more: dict) -> None:
        call = Call(paths[module], module, inputs[0] if len(inputs) == 1 and not more else None)
        stack[-1].inner.append(call)
        stack.append(call)

    def after(module: nn.Module, inputs: tuple, output: Any) -> None:
        stack.pop().output = output

    for module in paths:
        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(after)
    try:
        with torch.no_grad():
            model(torch.empty(1, *_own_size(prototype), device="meta"))
    except Exception as error:  # whatever a network of timm's may do with an image
        raise Unlistable(f"it does not run on tensors without data ({error})") from error
    return outermost.inner[0]


def _units(call: Call) -> list[Call]:
    """A chain's parts, opened in turn; a part with a convolution of its own is a block, if it is not a plain
    sequence.
    """
    opened = call.path == "" or isinstance(call.module, nn.Sequential)
    opened = opened or not any(isinstance(inner.module, nn.Conv2d) for inner in call.inner)
    if not opened or not _is_chain(call):
        return [call]
    return [unit for inner in call.inner for unit in _units(inner)]


def _is_chain(call: Call) -> bool:
    x = call.input
    for inner in call.inner:
        if inner.input is None or inner.input is not x:
            return False
        x = inner.output
    return bool(call.inner) and x is call.output


def _grouped(calls: list[Call]) -> tuple[list[list[Call]], list[Call]]:
    """The parts of each local layer, and what is left behind the last."""
    if all(call.convolutions < 2 for call in calls):
        return _grouped_plainly(calls)
    groups: list[list[Call]] = []
    lead: list[Call] = []
    for call in calls:
        if call.convolutions > 1:
            if not groups and any(before.convolutions for before in lead):
                groups, lead = [lead], []  # the stem
            groups.append([*lead, call])
            lead = []
        else:
            lead.append(call)
    if any(call.convolutions for call in lead):
        return [*groups, lead], []
    groups[-1].extend(lead)
    return groups, []


def _grouped_plainly(calls: list[Call]) -> tuple[list[list[Call]], list[Call]]:
    """The same of a network without blocks: every convolution starts a layer, a pooling before it included."""
    groups: list[list[Call]] = []
    lead: list[Call] = []
    for call in calls:
        if call.convolutions:
            groups.append([*lead, call])
            lead = []
        elif lead or not groups or call.shrinks > 1:
            lead.append(call)
        else:
            groups[-1].append(call)
    return groups, lead


def _described(groups: list[list[Call]]) -> list[LocalLayer]:
    """Stages begin where the image shrinks."""
    layers, stage, block = [], 1, 0
    has_stem = any(call.convolutions > 1 for group in groups for call in group)
    has_stem = has_stem and all(call.convolutions < 2 for call in groups[0])
    for group in groups:
        stride = round(group[0].input.shape[-1] / group[-1].output.shape[-1])
        if has_stem and not layers:
            name = "stem"
        else:
            if stride > 1 and block:
                stage, block = stage + 1, 0
            name, block = f"{stage}.{block}", block + 1
        layers.append(LocalLayer(name, group[-1].output.shape[1], stride))
    return layers
