"""What a method sees when it says what trains each module: the layers, the cuts, and sites for networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from localsl.backbones import Backbone, LocalLayer

if TYPE_CHECKING:
    from localsl.settings import Config


@dataclass(frozen=True)
class Site:
    """Features that an auxiliary network is attached to.

    Attributes:
        module: index of the module that they train, from 0.
        layer: index of the local layer whose output they are shaped like.
        channels, size: (N, channels, size, size).
    """

    module: int
    layer: int
    channels: int
    size: int


@dataclass(frozen=True)
class Plan:
    """A network before its auxiliary networks are built.

    Attributes:
        cfg: the configuration.
        backbone: the live network, for what copies or follows its layers.
        groups: the local layers of each module.
    """

    cfg: Config
    backbone: Backbone
    groups: list[range]

    @cached_property
    def layers(self) -> list[LocalLayer]:
        """All local layers, as described."""
        return self.cfg.backbone.local_layers()

    @cached_property
    def sizes(self) -> list[int]:
        """The width of each local layer's output, in pixels."""
        sizes, size = [], self.cfg.dataset.image_size
        for layer in self.layers:
            size = -(-size // layer.stride)
            sizes.append(size)
        return sizes

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
        return Site(module, index, self.layers[index].channels, self.sizes[index])
