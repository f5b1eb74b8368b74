"""The plan of a network before its auxiliary networks are built: layers, cuts, and sites to attach them to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from localsl.core.architecture import Architecture, Backbone, LocalLayer


@dataclass(frozen=True)
class Site:
    """Features that an auxiliary network is attached to.

    Attributes:
        module: index, from 0, of the module that the auxiliary network trains.
        layer: index of the local layer whose output has the shape of the features.
        channels, size: features are (N, channels, size, size), or (N, size, channels) for tokens.
        layout: layout of the features, one of `LAYOUTS`.
    """

    module: int
    layer: int
    channels: int
    size: int
    layout: str = "image"

    @property
    def has_grid(self) -> bool:
        """Whether the features have a height and a width, as 3x3 convolutions need."""
        return self.layout in ("image", "map")


@dataclass(frozen=True)
class Plan:
    """What a method needs in order to define each module's objective.

    Attributes:
        architecture: the description of the backbone.
        backbone: the live network, whose layers auxiliary networks may copy or follow.
        groups: the local layers of each module.
        num_classes: number of classes of the task.
        image_size, image_channels: size in pixels and number of channels of the input images.
    """

    architecture: Architecture
    backbone: Backbone
    groups: list[range]
    num_classes: int
    image_size: int
    image_channels: int = 3

    @cached_property
    def layers(self) -> list[LocalLayer]:
        """The descriptions of all local layers."""
        return self.architecture.local_layers()

    @cached_property
    def sizes(self) -> list[int]:
        """The width in pixels of each local layer's output; for tokens, their number."""
        return self.architecture.sizes(self.image_size)

    @property
    def modules(self) -> int:
        """The number of modules."""
        return len(self.groups)

    def end(self, module: int) -> int:
        """The index of a module's last local layer."""
        return self.groups[module][-1]

    def site(self, module: int, layer: int | None = None) -> Site:
        """The site for features of a module: its own output, or features shaped like the output of `layer`."""
        index = self.end(module) if layer is None else layer
        shaped_like = self.layers[index]
        return Site(module, index, shaped_like.channels, self.sizes[index], shaped_like.layout)
