"""A network before its auxiliary networks are built: layers, cuts, and sites for auxiliary networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from localsl.core.architecture import Architecture, Backbone, LocalLayer


@dataclass(frozen=True)
class Site:
    """Features that an auxiliary network is attached to.

    Attributes:
        module: index of the module that they train, from 0.
        layer: index of the local layer whose output they are shaped like.
        channels, size: (N, channels, size, size); of tokens (N, size, channels).
        layout: as of the layer's output.
    """

    module: int
    layer: int
    channels: int
    size: int
    layout: str = "image"

    @property
    def has_grid(self) -> bool:
        """Whether features have a height and a width, so that 3x3 convolutions make sense."""
        return self.layout in ("image", "map")


@dataclass(frozen=True)
class Plan:
    """What a method needs to say what trains each module.

    Attributes:
        architecture: describes the backbone.
        backbone: the live network, for what copies or follows its layers.
        groups: the local layers of each module.
        num_classes: of the task.
        image_size, image_channels: of the input.
    """

    architecture: Architecture
    backbone: Backbone
    groups: list[range]
    num_classes: int
    image_size: int
    image_channels: int = 3

    @cached_property
    def layers(self) -> list[LocalLayer]:
        """All local layers, as described."""
        return self.architecture.local_layers()

    @cached_property
    def sizes(self) -> list[int]:
        """The width of each local layer's output, in pixels; of tokens their number."""
        return self.architecture.sizes(self.image_size)

    @property
    def modules(self) -> int:
        """Number of modules."""
        return len(self.groups)

    def end(self, module: int) -> int:
        """Index of a module's last local layer."""
        return self.groups[module][-1]

    def site(self, module: int, layer: int | None = None) -> Site:
        """The module's own output, or features shaped like the output of another layer."""
        index = self.end(module) if layer is None else layer
        described = self.layers[index]
        return Site(module, index, described.channels, self.sizes[index], described.layout)
