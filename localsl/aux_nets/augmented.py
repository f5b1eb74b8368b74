"""AugLocal's auxiliary networks, built like later layers, and the handcrafted ones they are compared with.

They are those of Ma et al. 2024, Figure 2 and Table 5. `aux.selection` names the strategy, one for all stages or
one per stage of the module's last layer ("repetitive/repetitive_s2/uniform"):

    uniform         layers like later ones, evenly spread
    sequential      layers like those right after the module
    repetitive      layers like the module's own last one, all of stride 1
    repetitive_s2   layers like the module's own last one, the first as many of stride 2 as in the uniform network
    conv1x1 conv3x3 plain convolutions, `aux.multiplier` times as wide as the features
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from localsl.aux_nets import depth
from localsl.core.layers import as_image, conv_bn_relu, pooled
from localsl.core.plan import Plan, Site

LAYERWISE = ("uniform", "sequential", "repetitive", "repetitive_s2")
CONVOLUTIONS = {"conv1x1": 1, "conv3x3": 3}
STRATEGIES = (*LAYERWISE, *CONVOLUTIONS)


class AugmentedHead(nn.Sequential):
    """Auxiliary layers, followed by the auxiliary classifier of the backbone's family.

    Attributes:
        selected: indices of the local layers that its layers are built like.
        strides: strides of its layers.
    """

    def __init__(
        self, layers: list[nn.Module], selected: list[int], strides: list[int], names: Sequence[str] = ()
    ):
        """`names` are the names of the selected layers."""
        super().__init__(*layers)
        self.selected, self.strides, self._names = selected, strides, names

    def summary(self) -> str:
        """A description for the table of modules, with the names of the selected layers."""
        if not self.selected:
            return "pooling and a classifier"
        return f"like {' '.join(self._names)}, strides {' '.join(map(str, self.strides))}"


class ConvHead(nn.Sequential):
    """`count` convolutions of equal width and stride 1, global average pooling, and a linear layer."""

    def __init__(self, channels: int, kernel: int, count: int, multiplier: float, outputs: int):
        width = max(1, round(multiplier * channels))
        layers: list[nn.Module] = []
        for index in range(count):
            layers += conv_bn_relu(width if index else channels, width, kernel)
        super().__init__(*layers, *pooled(), nn.Linear(width, outputs))


@dataclass(frozen=True)
class Augmentation:
    """The depth of the auxiliary networks of a plan.

    Attributes:
        depth: d, the number of trainable layers of the first module's network, its classifier included.
        pyramid: tau, which sets how much the depth decreases towards the last module.
        norm: whether networks with at most one hidden layer have BatchNorm before their classifier.
    """

    depth: int
    pyramid: float
    norm: bool = True

    def hidden(self, plan: Plan) -> list[int]:
        """The number of hidden layers of the auxiliary network of every module but the last."""
        return depth.pyramid(self.depth, plan.modules, self.pyramid)


def strategy(selection: str, stage: int) -> str:
    """The strategy for a module that ends in `stage` (from 1); later stages share the last one named."""
    per_stage = selection.split("/")
    return per_stage[min(stage, len(per_stage)) - 1]


def build(
    plan: Plan, site: Site, outputs: int, how: str, multiplier: float, augmentation: Augmentation
) -> nn.Module:
    """Build the auxiliary classifier at a site by the strategy `how`."""
    count = augmentation.hidden(plan)[site.module]
    if how in CONVOLUTIONS:
        return ConvHead(site.channels, CONVOLUTIONS[how], count, multiplier, outputs)
    select = depth.sequential if how == "sequential" else depth.uniform
    selected = select(site.layer, len(plan.layers), count)
    architecture = plan.architecture
    strides = architecture.auxiliary_strides(site.layer, selected)
    if how.startswith("repetitive"):
        # The stem convolves the image; a module that is the stem alone repeats the first block instead.
        own = max(site.layer, 1)
        downsampling = sum(stride - 1 for stride in strides) if how == "repetitive_s2" else 0
        strides = [2] * downsampling + [1] * (count - downsampling)
        selected = [own] * count
    layers = architecture.layers_like(site.layer, selected, strides)
    last = plan.layers[selected[-1] if selected else site.layer]
    # As in the released code, but not in Table 6: BatchNorm after at most one layer, and none on ImageNet.
    norm = len(layers) <= 1 and augmentation.norm
    layers += [*as_image(last.layout), *architecture.auxiliary_classifier(last.channels, outputs, norm)]
    return AugmentedHead(layers, selected, strides, [plan.layers[index].name for index in selected])


def matched_multiplier(
    plan: Plan, sites: list[Site], kernel: int, outputs: int, augmentation: Augmentation
) -> float:
    """The width multiplier at which all convolutional heads together cost as much as AugLocal's uniform ones.

    The cost is the number of multiply-adds of convolutions and linear layers for one image, with widths not yet
    rounded. AugLocal, section A.5, states this rule but not the resulting numbers.
    """
    counts = augmentation.hidden(plan)

    def cost(multiplier: float) -> float:
        total = 0.0
        for site in sites:
            width = multiplier * site.channels
            convolutions = site.channels * width + (counts[site.module] - 1) * width * width
            total += kernel**2 * site.size**2 * convolutions + width * outputs
        return total

    with torch.device("meta"):
        goal = sum(multiply_adds(build(plan, s, outputs, "uniform", 1.0, augmentation), s) for s in sites)
    low, high = 0.0, 1.0
    while cost(high) < goal:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) < goal else (low, middle)
    return high


def multiply_adds(network: nn.Module, site: Site) -> int:
    """The multiply-adds of convolutions and linear layers of a network on the meta device, for one image."""
    total = 0

    def count(module: nn.Module, _: tuple, output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += output.numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network.eval()
    network(torch.empty(1, site.channels, site.size, site.size, device="meta"))
    return total
