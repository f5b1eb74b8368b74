"""What every backbone has in common: an ordered list of local layers, and layers built like them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from localsl.core.architecture import Architecture, Backbone, LocalLayer
from localsl.core.initialization import normal_fan_out
from localsl.core.layers import activation, conv_bn, pooled
from localsl.core.settings import Problem, name, number, one_of, ruled

# Whose heads, decoders, loss weights and AugLocal networks the papers give for a network.
SCALES = ("cifar", "imagenet")


class LayeredBackbone(Backbone):
    """A network that is built as its local layers and its classifier."""

    def __init__(self, layers: list[nn.Module], classifier: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(layers)  # pyright: ignore[reportAttributeAccessIssue]
        self.classifier = classifier


@dataclass(kw_only=True)
class BackboneConfig(Architecture):
    """A network as an ordered list of local layers (`cfg.backbone`).

    A subclass named `Settings` in a file of its own says what the network is: `local_layers`, `build` and
    `layer_like`, of which only the first is asked before anything is built. The rest has defaults.
    """

    name: str = ruled(name())
    """What tables of cuts and loss weights are kept by: a file of conf/backbone."""

    family: str
    """The file of localsl/backbones that the settings are of."""

    scale: str = ruled(one_of(*SCALES), default="cifar")
    """Whether the papers' settings for small images or for ImageNet are meant, where they differ."""

    negative_slope: float = ruled(number(0, below=1), default=0.0)
    """Of the activations below zero: 0 is ReLU."""

    def misfits(self, image_size: int) -> Iterator[Problem]:
        """What of its images' size it cannot take."""
        yield from ()

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the settings."""
        return iter(())

    def build(self, num_classes: int) -> Backbone:
        """The network with its initial weights."""
        raise NotImplementedError

    def torchvision_name(self, key: str) -> str:
        """What torchvision's network of this name calls an entry of the state dict.

        Raises:
            NotImplementedError: if it has no such network.
        """
        raise NotImplementedError(f"torchvision has no network with the weights of {self.name}")

    def load_torchvision(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> None:
        """Load a state dict of torchvision's network.

        Raises:
            ValueError: if it is not one of this network: entries are missing or too many.
            RuntimeError: if an entry has another shape.
        """
        names = {key: self.torchvision_name(key) for key in backbone.state_dict()}
        strange = sorted(set(names.values()) ^ set(weights))
        if strange:
            raise ValueError(f"these weights are not {self.name}'s: {', '.join(strange[:5])}")
        backbone.load_state_dict({key: weights[name] for key, name in names.items()})

    def to_torchvision(self, backbone: Backbone) -> dict[str, Tensor]:
        """The state dict that torchvision's network of this name loads."""
        return {self.torchvision_name(key): value for key, value in backbone.state_dict().items()}


@dataclass(kw_only=True)
class StagedConfig(BackboneConfig):
    """A network of stages, whose blocks have one width.

    Attributes:
        blocks: of each stage.
        widths: of each stage, in channels.
    """

    blocks: list[int]
    widths: list[int]

    def problems(self) -> Iterator[Problem]:
        """Every stage needs blocks and a width."""
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
        """The same of another list."""
        values = getattr(self, field)
        if len(values) != len(self.blocks) or min(values, default=low) < low or max(values, default=low) > high:
            what = f"one number from {low} to {high} for each of {len(self.blocks)} stages"
            yield Problem(f"backbone.{field}", values, what)

    def strides_of_stages(self) -> list[int]:
        """Of their first blocks: stages after the first halve the image."""
        return [1] + [2] * (len(self.blocks) - 1)

    def make_stem(self, width: int) -> nn.Module:
        """The first layer, where it is a stem: a 3x3 convolution that keeps the size."""
        return nn.Sequential(*conv_bn(3, width, 3), activation(self.negative_slope))

    def make_classifier(self, width: int, num_classes: int) -> nn.Module:
        """From features of the last layer's width to logits: global average pooling and one linear layer."""
        return nn.Sequential(*pooled(), nn.Linear(width, num_classes))

    def build(self, num_classes: int) -> Backbone:
        """Initialised as the papers' code does: convolutions normal by fan-out, all else by torch's default."""
        layers, width = [], 3
        for index, layer in enumerate(self.local_layers()):
            made = (
                self.make_stem(layer.channels) if layer.is_stem else self.layer_like(index, width, layer.stride)
            )
            layers.append(made)
            width = layer.channels
        backbone = LayeredBackbone(layers, self.make_classifier(width, num_classes))
        normal_fan_out(backbone)
        return backbone

    def staged(self, factor: int = 1) -> Iterator[LocalLayer]:
        """Every block, `factor` times as wide as its stage."""
        stages = zip(self.blocks, self.widths, self.strides_of_stages(), strict=True)
        for stage, (count, width, stride) in enumerate(stages, 1):
            for block in range(count):
                yield LocalLayer(f"{stage}.{block}", width * factor, stride if block == 0 else 1, stage)


def renamed(settings: StagedConfig, published: dict[str, tuple[list[int], list[int]]]) -> Iterator[Problem]:
    """A network that has the name of another: tables of cuts and loss weights are kept by name.

    Args:
        settings: of the network.
        published: blocks and widths by name.
    """
    if settings.name in published and published[settings.name] != (settings.blocks, settings.widths):
        blocks, widths = published[settings.name]
        what = f"{settings.name} has blocks {blocks} and widths {widths}"
        yield Problem("backbone.name", settings.name, what, "type backbone.name=NAME for one of your own")
