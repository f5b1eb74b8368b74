"""Any network as a backbone: its forward and parameters stay unchanged, and its steps form local layers."""

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
    """A network together with the pieces that it is cut into, which consist of its own modules.

    `forward` is the network's own. `state_dict()` has the network's entries under "model.".
    """

    def __init__(self, model: nn.Module, layers: list[nn.Module], classifier: nn.Module):
        super().__init__()
        self.model = model
        # A tuple, so that modules of the network are not registered a second time.
        self._pieces = (layers, classifier)
        self._glue = tuple(m for piece in (*layers, classifier) for m in piece.modules() if isinstance(m, Glue))

    @property
    def layers(self) -> list[nn.Module]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The local layers."""
        return self._pieces[0]

    @property
    def classifier(self) -> nn.Module:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The module that maps the last local layer's output to logits."""
        return self._pieces[1]

    def forward(self, x: Tensor) -> Tensor:
        """Run the network's own forward."""
        return self.model(x)

    def refresh(self) -> None:
        """Let operations between modules use the network's current parameters and buffers."""
        for glue in self._glue:
            glue.refresh(self.model)


@dataclass(frozen=True)
class Outline:
    """The division of a network into local layers and a classifier.

    Attributes:
        layers: the descriptions of the local layers.
        sizes: the width in pixels of each layer's output; for tokens their number, for vectors 1.
        pieces: the steps of each layer.
        classifier: the steps after the last layer.
        shapes: the shapes of each layer's input and output for the example, without the batch dimension.
        input_layouts: the layout of each layer's input.
    """

    layers: list[LocalLayer]
    sizes: list[int]
    pieces: list[list[Step]]
    classifier: list[Step]
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]
    input_layouts: list[str]

    def wrap(self, model: nn.Module) -> WrappedBackbone:
        """The backbone of the network from which this outline was made."""
        return WrappedBackbone(model, [_piece(steps) for steps in self.pieces], _piece(self.classifier))

    def retrace(self, model: nn.Module) -> WrappedBackbone:
        """The backbone of another network of the same architecture; its number of classes may differ."""
        with _mode(model, training=True):
            steps = {step.name: step for step in tracing.steps(model)}
        pieces = [[steps[step.name] for step in piece] for piece in self.pieces]
        classifier = [steps[step.name] for step in self.classifier]
        return WrappedBackbone(model, [_piece(piece) for piece in pieces], _piece(classifier))


class WrappedArchitecture(Architecture):
    """The architecture of a traced network."""

    def __init__(self, name: str, outline: Outline, scale: str = "imagenet"):
        self.name, self.scale, self._outline = name, scale, outline

    def local_layers(self) -> list[LocalLayer]:
        """The blocks and perhaps a stem; steps between two blocks belong to the second (see `_grouped`)."""
        return self._outline.layers

    def sizes(self, image_size: int) -> list[int]:
        """The sizes for the example with which the network was outlined, whatever the `image_size`."""
        return self._outline.sizes

    def layers_like(self, start: int, selected: list[int], strides: list[int]) -> list[nn.Module]:
        """Copies of the selected layers, with adapters before them where features do not fit."""
        return copies(self._outline, start, selected, strides)


def outline(
    model: nn.Module,
    example: Tensor,
    cuts: Iterable[str] = (),
) -> Outline:
    """Divide a network into local layers, one of which ends at each of `cuts`.

    Args:
        model: the network; it is not changed.
        example: a batch of inputs, which is run once in evaluation mode.
        cuts: names of modules after which to cut.

    Raises:
        Uncuttable: if the network is not a chain of layers, or cannot be cut at one of the cuts.
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
    for step, output in zip(steps, features[1:], strict=True):
        if not isinstance(output, Tensor):
            raise Uncuttable(f"{type(model).__name__} cannot be cut: {step.name!r} does not return one tensor")
    layouts = ["image" if example.ndim == 4 else _layout(None, example)]
    for step, output in zip(steps, features[1:], strict=True):
        layouts.append(_layout(step, output, layouts[-1]))
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
    """A chain of copies of the selected layers, with adapters before them where features do not fit.

    Images are average pooled where the stride is larger than that of the copied layer, and pass a 1x1 convolution
    with BatchNorm where the copy takes another width. A layer with too large a stride is replaced by the nearest one
    of equal width and the right stride, if there is any. Maps and tokens are pooled to the size that the copy takes.
    """
    layers = outline.layers
    first = layers[start]
    width, size, layout, chain = first.channels, outline.shapes[start][1], first.layout, []
    for index, stride in zip(selected, strides, strict=True):
        if layout == "image" and outline.input_layouts[index] == "image":
            index = _with_stride(layers, index, stride)
            input_width = outline.shapes[index][0][0]
            adapter: list[nn.Module] = []
            if stride > layers[index].stride:
                adapter.append(nn.AvgPool2d(2, ceil_mode=True))
            if width != input_width:
                adapter += conv_bn(width, input_width, 1)
        else:
            adapter = _adapter(layout, size, width, outline.input_layouts[index], outline.shapes[index][0])
        copied = copy.deepcopy(_piece(outline.pieces[index])).requires_grad_(True)
        chain.append(nn.Sequential(*adapter, copied.to(torch.get_default_device())))
        width, size, layout = layers[index].channels, outline.shapes[index][1], layers[index].layout
    return chain


def _adapter(
    layout: str, shape: tuple[int, ...], width: int, to_layout: str, to_shape: tuple[int, ...]
) -> list[nn.Module]:
    """The layers that turn features of one layout, shape and width into those that another layer takes."""
    if (layout, shape) == (to_layout, to_shape):
        return []
    channels = to_shape[0] if to_layout in ("image", "vector") else to_shape[-1]
    grids = {"image": to_shape[1:], "map": to_shape[:2], "tokens": (to_shape[0], 1), "vector": (1, 1)}
    adapter = [*as_image(layout), AvgPoolTo(grids[to_layout])]  # pyright: ignore[reportArgumentType]
    adapter += conv_bn(width, channels, 1) if width != channels else []
    return [*adapter, *from_image(to_layout)]


def _with_stride(layers: list[LocalLayer], index: int, stride: int) -> int:
    """The layer to copy for a stride: `index`, or the nearest of its width if its own stride is too large."""
    if stride >= layers[index].stride:
        return index
    width = layers[index].channels
    fitting = [i for i, layer in enumerate(layers) if (layer.channels, layer.stride) == (width, stride)]
    return min(fitting, key=lambda i: abs(i - index), default=index)


def _piece(steps: list[Step]) -> nn.Sequential:
    return nn.Sequential(*(step.module for step in steps))


def _check_shared(steps: list[Step]) -> None:
    """Refuse steps that share weights, since a cut could put them into different modules."""
    owner: dict[nn.Parameter, str] = {}
    for step in steps:
        for parameter in step.module.parameters():
            if owner.setdefault(parameter, step.name) != step.name:
                raise Uncuttable(f"cannot be cut: {owner[parameter]!r} and {step.name!r} share weights")


def _layout(step: Step | None, x: Tensor, before: str = "image") -> str:
    """The layout of a step's output; for four dimensions, that of its last layer with weights, or as `before`."""
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
    """The factor by which a layer downsamples; 1 where features become or already are tokens or vectors."""
    grid = ("image", "map")
    return max(1, round(_size(before, was) / _size(after, now))) if was in grid and now in grid else 1


def _head(steps: list[Step], features: list[Tensor], layouts: list[str]) -> int:
    """The index of the classifier's first step: a flattening or global pooling, else the last with weights."""
    for i in range(len(steps)):
        before, after = features[i], features[i + 1]
        flattened = layouts[i + 1] == "vector" != layouts[i]
        pooled = layouts[i] == "image" == layouts[i + 1] and after.shape[-1] == 1 < before.shape[-1]
        if flattened or pooled:
            return i
    return max((i for i, step in enumerate(steps) if step.heavy), default=len(steps))


def _grouped(steps: list[Step]) -> list[list[Step]]:
    """The steps of each local layer.

    A block is a step with at least two weighted layers. It ends a local layer, which the steps before it belong to.
    Steps before the first block form the stem if they have weights. In a network without blocks, every weighted layer
    begins a local layer.
    """
    if all(step.heavy < 2 for step in steps):
        return _grouped_by_weights(steps)
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


def _grouped_by_weights(steps: list[Step]) -> list[list[Step]]:
    """The steps of each local layer of a network without blocks.

    Every weighted layer begins a local layer, or the pooling before it does.
    """
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
    """The groups, divided at cuts that fall inside one; `ends` are the indices of steps before cuts."""
    divided, begin = [], 0
    for group in groups:
        parts: list[list[Step]] = [[]]
        for offset, step in enumerate(group):
            parts[-1].append(step)
            if begin + offset in ends:
                parts.append([])
        divided += [part for part in parts if part]
        begin += len(group)
    return divided


@contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put all modules into training or evaluation mode inside, and restore their modes afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was
