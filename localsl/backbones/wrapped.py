"""Any network as a backbone: its own forward and parameters untouched, its steps grouped into local layers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from localsl.backbones import tracing
from localsl.backbones.tracing import Glue, Step, Uncuttable
from localsl.core.architecture import Architecture, Backbone, LocalLayer
from localsl.core.layers import AvgPoolTo, as_image, conv_bn, from_image


class WrappedBackbone(Backbone):
    """A network and the pieces that it is cut into, which are its own modules.

    `forward` is the network's. `state_dict()` has the network's entries under "model.".
    """

    def __init__(self, model: nn.Module, layers: list[nn.Module], classifier: nn.Module):
        super().__init__()
        self.model = model
        # In a tuple: their modules are the network's, and are not registered twice.
        self._pieces = (layers, classifier)
        self._glue = tuple(m for piece in (*layers, classifier) for m in piece.modules() if isinstance(m, Glue))

    @property
    def layers(self) -> list[nn.Module]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The local layers."""
        return self._pieces[0]

    @property
    def classifier(self) -> nn.Module:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What makes logits of the last local layer's output."""
        return self._pieces[1]

    def forward(self, x: Tensor) -> Tensor:
        """The network's own forward."""
        return self.model(x)

    def refresh(self) -> None:
        """Let what stands between the network's modules use its present parameters and buffers."""
        for glue in self._glue:
            glue.refresh(self.model)


@dataclass(frozen=True)
class Outline:
    """How a network is cut into local layers.

    Attributes:
        layers: as described.
        sizes: width of each layer's output in pixels; of tokens their number; of vectors 1.
        pieces: the steps of each layer.
        classifier: the steps after the last layer.
        shapes: of each layer's input and output for the example, without the batch.
        input_layouts: of each layer's input.
    """

    layers: list[LocalLayer]
    sizes: list[int]
    pieces: list[list[Step]]
    classifier: list[Step]
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]
    input_layouts: list[str]

    def of(self, model: nn.Module) -> WrappedBackbone:
        """The backbone of the network that was outlined."""
        return WrappedBackbone(model, [_piece(steps) for steps in self.pieces], _piece(self.classifier))

    def anew(self, model: nn.Module) -> WrappedBackbone:
        """The backbone of another network of the same architecture, which may have other classes."""
        with _mode(model, training=True):
            steps = {step.name: step for step in tracing.steps(model)}
        pieces = [[steps[step.name] for step in piece] for piece in self.pieces]
        classifier = [steps[step.name] for step in self.classifier]
        return WrappedBackbone(model, [_piece(piece) for piece in pieces], _piece(classifier))


class WrappedArchitecture(Architecture):
    """A network that was outlined."""

    def __init__(self, name: str, outline: Outline, scale: str = "imagenet"):
        self.name, self.scale, self._outline = name, scale, outline

    def local_layers(self) -> list[LocalLayer]:
        """Blocks; what stands before the first is the stem, what stands between two belongs to the second."""
        return self._outline.layers

    def sizes(self, image_size: int) -> list[int]:
        """As for the example that the network was outlined with."""
        return self._outline.sizes

    def layers_like(self, start: int, selected: list[int], strides: list[int]) -> list[nn.Module]:
        """Copies of the selected layers, each behind what makes the features before it fit."""
        return copies(self._outline, start, selected, strides)


def outline(
    model: nn.Module,
    example: Tensor,
    cuts: Iterable[str] = (),
) -> Outline:
    """How a network is cut into local layers, and after each of `cuts`.

    Args:
        example: a batch of the network's input, run once in evaluation mode.

    Raises:
        Uncuttable: if it is no chain of layers, or cannot be cut there.
    """
    cuts = list(cuts)
    with _mode(model, training=True):
        steps = tracing.steps(model, cuts)
    _check_shared(steps)
    features = [example]
    with torch.no_grad(), _mode(model, training=False):
        for step in steps:
            try:
                features.append(step.module(features[-1]))
            except (RuntimeError, AssertionError, ValueError) as error:
                what = f"{step.name!r} of {type(model).__name__} cannot take the example's features"
                raise Uncuttable(f"{what}, {tuple(features[-1].shape)}: {error}") from error
    for step, made in zip(steps, features[1:], strict=True):
        if not isinstance(made, Tensor):
            raise Uncuttable(f"{type(model).__name__} cannot be cut: {step.name!r} does not return one tensor")
    layouts = ["image" if example.ndim == 4 else _layout(None, example)]
    for step, made in zip(steps, features[1:], strict=True):
        layouts.append(_layout(step, made, layouts[-1]))
    head = _head(steps, features, layouts)
    ends = {tracing.position(steps, cut) for cut in cuts}
    late = [cut for cut in cuts if tracing.position(steps, cut) >= head - (head == len(steps))]
    if late:
        raise Uncuttable(f"cannot cut after {late[0]!r}: the classifier begins there")
    groups = _split(_grouped(steps[:head]), ends)
    if len(groups) < 2:
        raise Uncuttable(f"{type(model).__name__} cannot be cut: it has fewer than two layers with weights")
    rest = steps[sum(map(len, groups)) :]
    layers, sizes, shapes, inputs, begin, stage = [], [], [], [], 0, 1
    for group in groups:
        end = begin + len(group)
        before, after, layout = features[begin], features[end], layouts[end]
        stride = _stride(before, after, layouts[begin], layout)
        is_stem = (
            not layers and all(step.heavy < 2 for step in group) and any(s.heavy > 1 for s in steps[:head])
        )
        stage += bool(layers) and stride > 1 and not (len(layers) == 1 and layers[0].is_stem)
        cut_here = end - 1 in ends
        name = group[-1].name if cut_here else max(group, key=lambda step: step.heavy).name
        channels = after.shape[1 if layout in ("image", "vector") else -1]
        layers.append(LocalLayer(name, channels, stride, stage, is_stem, layout))
        sizes.append(_size(after, layout))
        shapes.append((tuple(before.shape[1:]), tuple(after.shape[1:])))
        inputs.append(layouts[begin])
        begin = end
    return Outline(layers, sizes, groups, rest, shapes, inputs)


def copies(outline: Outline, start: int, selected: list[int], strides: list[int]) -> list[nn.Module]:
    """Copies of the selected layers in a chain, each behind what makes the features before it fit.

    Images are average pooled where a stride is owed that the copied layer does not have, and pass a 1x1 convolution
    with BatchNorm where it takes other widths. In place of a layer with a larger stride stands the nearest layer of
    its width without, if there is one. Maps and tokens are pooled to the size that the layer takes.
    """
    layers = outline.layers
    at = layers[start]
    width, size, layout, made = at.channels, outline.shapes[start][1], at.layout, []
    for index, stride in zip(selected, strides, strict=True):
        if layout == "image" and outline.input_layouts[index] == "image":
            index = _with_stride(layers, index, stride)
            takes = outline.shapes[index][0][0]
            fit: list[nn.Module] = []
            if stride > layers[index].stride:
                fit.append(nn.AvgPool2d(2, ceil_mode=True))
            if width != takes:
                fit += conv_bn(width, takes, 1)
        else:
            fit = _fitted(layout, size, width, outline.input_layouts[index], outline.shapes[index][0])
        copied = copy.deepcopy(_piece(outline.pieces[index])).requires_grad_(True)
        made.append(nn.Sequential(*fit, copied.to(torch.get_default_device())))
        width, size, layout = layers[index].channels, outline.shapes[index][1], layers[index].layout
    return made


def _fitted(
    layout: str, size: tuple[int, ...], width: int, takes: str, wanted: tuple[int, ...]
) -> list[nn.Module]:
    """From features of one layout, size and width to those that a layer takes."""
    if (layout, size) == (takes, wanted):
        return []
    channels = wanted[0] if takes in ("image", "vector") else wanted[-1]
    spatial = {"image": wanted[1:], "map": wanted[:2], "tokens": (wanted[0], 1), "vector": (1, 1)}[takes]
    fit = [*as_image(layout), AvgPoolTo(spatial)]  # pyright: ignore[reportArgumentType]
    fit += conv_bn(width, channels, 1) if width != channels else []
    return [*fit, *from_image(takes)]


def _with_stride(layers: list[LocalLayer], index: int, stride: int) -> int:
    if stride >= layers[index].stride:
        return index
    width = layers[index].channels
    alike = [i for i, layer in enumerate(layers) if (layer.channels, layer.stride) == (width, stride)]
    return min(alike, key=lambda i: abs(i - index), default=index)


def _piece(steps: list[Step]) -> nn.Sequential:
    return nn.Sequential(*(step.module for step in steps))


def _check_shared(steps: list[Step]) -> None:
    """Weights that two steps share could be in two modules."""
    owner: dict[nn.Parameter, str] = {}
    for step in steps:
        for parameter in step.module.parameters():
            if owner.setdefault(parameter, step.name) != step.name:
                raise Uncuttable(f"cannot be cut: {owner[parameter]!r} and {step.name!r} share weights")


def _layout(step: Step | None, x: Tensor, before: str = "image") -> str:
    """Of a step's output; of four dimensions by the last layer with weights, else as before."""
    if x.ndim == 2:
        return "vector"
    if x.ndim == 3:
        return "tokens"
    if x.ndim != 4:
        raise Uncuttable(f"features of {x.ndim} dimensions are neither images, maps, tokens nor vectors")
    for module in reversed(list(step.module.modules()) if step else []):
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm):
            return "image"
        if isinstance(module, nn.Linear | nn.LayerNorm):
            width = module.out_features if isinstance(module, nn.Linear) else module.normalized_shape[-1]
            if x.shape[-1] != x.shape[1]:
                return "map" if x.shape[-1] == width else "image"
    return before if before in ("image", "map") else "image"


def _size(x: Tensor, layout: str) -> int:
    return {"image": x.shape[-1], "map": x.shape[-2], "tokens": x.shape[1], "vector": 1}[layout]


def _stride(before: Tensor, after: Tensor, was: str, now: str) -> int:
    """By which a layer shrinks the image; 1 where it is turned into tokens."""
    grid = ("image", "map")
    return max(1, round(_size(before, was) / _size(after, now))) if was in grid and now in grid else 1


def _head(steps: list[Step], features: list[Tensor], layouts: list[str]) -> int:
    """The first step of the classifier: where no image or tokens are left, or else the last layer with weights."""
    for i in range(len(steps)):
        before, after = features[i], features[i + 1]
        flattened = layouts[i + 1] == "vector" != layouts[i]
        pooled = layouts[i] == "image" == layouts[i + 1] and after.shape[-1] == 1 < before.shape[-1]
        if flattened or pooled:
            return i
    return max((i for i, step in enumerate(steps) if step.heavy), default=len(steps))


def _grouped(steps: list[Step]) -> list[list[Step]]:
    """The steps of each local layer.

    A block, a step with two weighted layers or more, ends a layer; what stands before it belongs to it, and what
    stands before the first block is the stem if it has weights. A network without blocks is cut at its weighted
    layers.
    """
    if all(step.heavy < 2 for step in steps):
        return _grouped_plainly(steps)
    groups: list[list[Step]] = []
    lead: list[Step] = []
    for step in steps:
        if step.heavy > 1:
            if not groups and any(before.heavy for before in lead):
                groups, lead = [lead], []
            groups.append([*lead, step])
            lead = []
        else:
            lead.append(step)
    if any(step.heavy for step in lead):
        return [*groups, lead]
    groups[-1].extend(lead)
    return groups


def _grouped_plainly(steps: list[Step]) -> list[list[Step]]:
    """Every weighted layer starts a group, with a pooling before it."""
    groups: list[list[Step]] = []
    lead: list[Step] = []
    for step in steps:
        pools = "pool" in type(step.module).__name__.lower()
        if step.heavy:
            groups.append([*lead, step])
            lead = []
        elif lead or not groups or pools:
            lead.append(step)
        else:
            groups[-1].append(step)
    if lead and groups:
        groups[-1].extend(lead)
    return groups


def _split(groups: list[list[Step]], ends: set[int]) -> list[list[Step]]:
    """The groups, divided where a cut falls inside one."""
    made, begin = [], 0
    for group in groups:
        parts: list[list[Step]] = [[]]
        for offset, step in enumerate(group):
            parts[-1].append(step)
            if begin + offset in ends:
                parts.append([])
        made += [part for part in parts if part]
        begin += len(group)
    return made


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """All modules in training or evaluation inside, as they were after it."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was
