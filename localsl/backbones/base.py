"""The base classes of all backbones: an ordered list of local layers, and layers built like them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from localsl.core.architecture import SCALES, Architecture, Backbone, LocalLayer
from localsl.core.initialization import normal_fan_out
from localsl.core.layers import activation, conv_bn, pooled
from localsl.core.settings import Problem, name, number, one_of, ruled


class LayeredBackbone(Backbone):
    """A backbone that is built as a list of local layers and a classifier."""

    def __init__(self, layers: list[nn.Module], classifier: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(layers)  # pyright: ignore[reportAttributeAccessIssue]
        self.classifier = classifier


@dataclass(kw_only=True)
class BackboneConfig(Architecture):
    """The settings of a network, and the network as an ordered list of local layers (`cfg.backbone`).

    Each family is a subclass in a file of its own that implements `local_layers`, `layer_like` and `build`; other
    methods have defaults. `local_layers` is called before anything is built.
    """

    name: str = ruled(name())
    """The name under which tables of cuts and loss weights list the network; a file of conf/backbone."""

    family: str
    """The file of localsl/backbones that defines the network."""

    scale: str = ruled(one_of(*SCALES), default="cifar")
    """Which of the papers' settings to use where they differ: those for small images or for ImageNet."""

    negative_slope: float = ruled(number(0, below=1), default=0.0)
    """The slope of the activations below zero; 0 is ReLU."""

    def misfits(self, image_size: int) -> Iterator[Problem]:
        """Problems with the size of the input images."""
        yield from ()

    def problems(self) -> Iterator[Problem]:
        """Problems with the settings."""
        return iter(())

    def build(self, num_classes: int) -> Backbone:
        """Build the network with its initial weights."""
        raise NotImplementedError

    def torchvision_name(self, key: str) -> str:
        """The name of a state dict entry in torchvision's network of the same name.

        Raises:
            NotImplementedError: if torchvision has no such network.
        """
        raise NotImplementedError(f"torchvision has no network with the weights of {self.name}")

    def load_torchvision(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> None:
        """Load the state dict of torchvision's network of the same name.

        Raises:
            ValueError: if entries are missing or unknown, so that it belongs to another network.
            RuntimeError: if an entry has the wrong shape.
        """
        names = {key: self.torchvision_name(key) for key in backbone.state_dict()}
        mismatched = sorted(set(names.values()) ^ set(weights))
        if mismatched:
            raise ValueError(f"these weights are not {self.name}'s: {', '.join(mismatched[:5])}")
        backbone.load_state_dict({key: weights[name] for key, name in names.items()})

    def to_torchvision(self, backbone: Backbone) -> dict[str, Tensor]:
        """The state dict as torchvision's network of the same name loads it."""
        return {self.torchvision_name(key): value for key, value in backbone.state_dict().items()}


@dataclass(kw_only=True)
class StagedConfig(BackboneConfig):
    """A network of stages of blocks; the blocks of a stage have equal width.

    Attributes:
        blocks: number of blocks in each stage.
        widths: channels in each stage.
    """

    blocks: list[int]
    widths: list[int]

    def problems(self) -> Iterator[Problem]:
        """Problems with the numbers of blocks and the widths."""
        blocks, widths = self.blocks, self.widths
        if not blocks or min(blocks) < 1:
            yield Problem("backbone.blocks", blocks, "one number of blocks, at least 1, per stage")
        elif max(blocks) > 1000:
            yield Problem("backbone.blocks", blocks, "at most 1000 blocks per stage")
        if len(widths) != len(blocks) or min(widths, default=0) < 1 or max(widths) > 65536:
            yield Problem(
                "backbone.widths", widths, f"one width, from 1 to 65536, for each of {len(blocks)} stages"
            )

    def per_stage(self, field: str, low: int, high: int) -> Iterator[Problem]:
        """Problems with a field that must have one number from `low` to `high` for each stage."""
        values = getattr(self, field)
        if len(values) != len(self.blocks) or min(values, default=low) < low or max(values, default=low) > high:
            what = f"one number from {low} to {high} for each of {len(self.blocks)} stages"
            yield Problem(f"backbone.{field}", values, what)

    def strides_of_stages(self) -> list[int]:
        """The stride of each stage's first block: all stages but the first halve the image."""
        return [1] + [2] * (len(self.blocks) - 1)

    def make_stem(self, width: int) -> nn.Module:
        """The stem, if there is one: a 3x3 convolution that keeps the size, BatchNorm, and an activation."""
        return nn.Sequential(*conv_bn(3, width, 3), activation(self.negative_slope))

    def make_classifier(self, width: int, num_classes: int) -> nn.Module:
        """The classifier on features of `width` channels: global average pooling and a linear layer."""
        return nn.Sequential(*pooled(), nn.Linear(width, num_classes))

    def build(self, num_classes: int) -> Backbone:
        """Build the network, initialised as in the papers' code by `normal_fan_out`."""
        layers, width = [], 3
        for index, layer in enumerate(self.local_layers()):
            stem = layer.is_stem
            layers.append(
                self.make_stem(layer.channels) if stem else self.layer_like(index, width, layer.stride)
            )
            width = layer.channels
        backbone = LayeredBackbone(layers, self.make_classifier(width, num_classes))
        normal_fan_out(backbone)
        return backbone

    def staged(self, factor: int = 1) -> Iterator[LocalLayer]:
        """The descriptions of all blocks, whose outputs are `factor` times as wide as their stages."""
        stages = zip(self.blocks, self.widths, self.strides_of_stages(), strict=True)
        for stage, (count, width, stride) in enumerate(stages, 1):
            for block in range(count):
                yield LocalLayer(f"{stage}.{block}", width * factor, stride if block == 0 else 1, stage)


def name_conflicts(
    settings: StagedConfig, published: dict[str, tuple[list[int], list[int]]]
) -> Iterator[Problem]:
    """The problem of a network that has the name of a different published one; cuts and weights are found by name.

    Args:
        settings: the settings of the network.
        published: blocks and widths of the published networks, by name.
    """
    if settings.name in published and published[settings.name] != (settings.blocks, settings.widths):
        blocks, widths = published[settings.name]
        what = f"{settings.name} has blocks {blocks} and widths {widths}"
        yield Problem("backbone.name", settings.name, what, "type backbone.name=NAME for one of your own")
