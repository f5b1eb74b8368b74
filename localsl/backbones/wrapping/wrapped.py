"""Any network as a backbone: its forward and parameters stay unchanged, and its steps form local layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from localsl.backbones.wrapping import tracing
from localsl.backbones.wrapping.tracing import Glue, Step
from localsl.core.architecture import Architecture, Backbone, LocalLayer
from localsl.core.layers import AvgPoolTo, Copied, as_image, conv_bn, from_image


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
        output: the shape of the network's output for the example, without the batch dimension.
        in_place: for each layer and then the classifier, whether it changes its input in place.
    """

    layers: list[LocalLayer]
    sizes: list[int]
    pieces: list[list[Step]]
    classifier: list[Step]
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]
    input_layouts: list[str]
    output: tuple[int, ...]
    in_place: list[bool]

    def wrap(self, model: nn.Module) -> WrappedBackbone:
        """The backbone of the network from which this outline was made."""
        return self._wrapped(model, self.pieces, self.classifier)

    def retrace(self, model: nn.Module) -> WrappedBackbone:
        """The backbone of another network of the same architecture; its number of classes may differ."""
        with in_mode(model, training=True):
            steps = {step.name: step for step in tracing.steps(model)}
        pieces = [[steps[step.name] for step in piece] for piece in self.pieces]
        classifier = [steps[step.name] for step in self.classifier]
        return self._wrapped(model, pieces, classifier)

    def _wrapped(self, model: nn.Module, pieces: list[list[Step]], classifier: list[Step]) -> WrappedBackbone:
        *layers, last = map(_piece, [*pieces, classifier], self.in_place)
        return WrappedBackbone(model, layers, last)


class WrappedArchitecture(Architecture):
    """The architecture of a traced network."""

    def __init__(self, name: str, outline: Outline, scale: str = "imagenet"):
        self.name, self.scale, self._outline = name, scale, outline

    def local_layers(self) -> list[LocalLayer]:
        """The blocks and perhaps a stem; steps between two blocks belong to the second (see `divide`)."""
        return self._outline.layers

    def sizes(self, image_size: int) -> list[int]:
        """The sizes for the example with which the network was outlined, whatever the `image_size`."""
        return self._outline.sizes

    def layers_like(self, start: int, selected: list[int], strides: list[int]) -> list[nn.Module]:
        """Copies of the selected layers, with adapters before them where features do not fit."""
        return copies(self._outline, start, selected, strides)


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
        piece = _piece(outline.pieces[index], outline.in_place[index])
        copied = copy.deepcopy(piece).requires_grad_(True)
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


def _piece(steps: list[Step], in_place: bool) -> nn.Module:
    """The layer of consecutive steps. One that would change its input gets a copy, since other losses read it too."""
    return nn.Sequential(*([Copied()] if in_place else []), *(step.module for step in steps))


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put all modules into training or evaluation mode inside, and restore their modes afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was
