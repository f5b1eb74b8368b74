"""AugLocal's auxiliary networks: copies of the architecture of later layers, and the handcrafted ones they
are compared with.

Ma et al. 2024, Figure 2 and Table 5. `aux.selection` names the strategy, one for all stages or one per stage
of the module's last layer ("repetitive/repetitive_s2/uniform"):

    uniform         later layers, evenly spread
    sequential      the layers right after
    repetitive      copies of the module's own last layer, which keep the size
    repetitive_s2   the same, with as many stride-2 copies first as the uniform network has
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
    """Auxiliary layers and the classifier that the backbone's family puts on them.

    Attributes:
        selected: the local layers that it is shaped like.
        strides: of its layers.
    """

    def __init__(
        self, layers: list[nn.Module], selected: list[int], strides: list[int], names: Sequence[str] = ()
    ):
        """`names` are the selected layers'."""
        super().__init__(*layers)
        self.selected, self.strides, self._names = selected, strides, names

    def summary(self) -> str:
        """For the table of modules: the layers it is like, by the names that the table has them under."""
        if not self.selected:
            return "pooling and a classifier"
        return f"like {' '.join(self._names)}, strides {' '.join(map(str, self.strides))}"


class ConvHead(nn.Sequential):
    """`count` convolutions of one width that keep the size, global average pooling, a linear layer."""

    def __init__(self, channels: int, kernel: int, count: int, multiplier: float, outputs: int):
        width = max(1, round(multiplier * channels))
        layers: list[nn.Module] = []
        for index in range(count):
            layers += conv_bn_relu(width if index else channels, width, kernel)
        super().__init__(*layers, *pooled(), nn.Linear(width, outputs))


@dataclass(frozen=True)
class Augmentation:
    """How deep the auxiliary networks of a plan are.

    Attributes:
        depth: d of the first module's, its classifier included.
        pyramid: tau, by which it falls to the last module's.
        norm: whether a network of one layer has BatchNorm before its classifier.
    """

    depth: int
    pyramid: float
    norm: bool = True

    def hidden(self, plan: Plan) -> list[int]:
        """Hidden layers of the auxiliary network of every module but the last."""
        return depth.pyramid(self.depth, plan.modules, self.pyramid)


def strategy(selection: str, stage: int) -> str:
    """The strategy for a module that ends in `stage` (from 1); the last one named holds for later stages."""
    per_stage = selection.split("/")
    return per_stage[min(stage, len(per_stage)) - 1]


def build(
    plan: Plan, site: Site, outputs: int, how: str, multiplier: float, augmentation: Augmentation
) -> nn.Module:
    """The auxiliary classifier at a site by the strategy `how`."""
    count = augmentation.hidden(plan)[site.module]
    if how in CONVOLUTIONS:
        return ConvHead(site.channels, CONVOLUTIONS[how], count, multiplier, outputs)
    select = depth.sequential if how == "sequential" else depth.uniform
    selected = select(site.layer, len(plan.layers), count)
    architecture = plan.architecture
    strides = architecture.auxiliary_strides(site.layer, selected)
    if how.startswith("repetitive"):
        # For the stem, whose own layer is a convolution of the image, a block of its width.
        own = max(site.layer, 1)
        downsampling = sum(stride - 1 for stride in strides) if how == "repetitive_s2" else 0
        strides = [2] * downsampling + [1] * (count - downsampling)
        selected = [own] * count
    layers = architecture.layers_like(site.layer, selected, strides)
    last = plan.layers[selected[-1] if selected else site.layer]
    # BatchNorm on one layer at most, and none on ImageNet: the released code's, which Table 6 omits.
    norm = len(layers) <= 1 and augmentation.norm
    layers += [*as_image(last.layout), *architecture.auxiliary_classifier(last.channels, outputs, norm)]
    return AugmentedHead(layers, selected, strides, [plan.layers[index].name for index in selected])


def matched_multiplier(
    plan: Plan, sites: list[Site], kernel: int, outputs: int, augmentation: Augmentation
) -> float:
    """The one width multiplier at which convolutional heads cost what AugLocal's uniform ones do in all.

    Compared are the multiply-adds of convolutions and linear layers for one image, with widths not yet
    rounded. AugLocal section A.5 gives the rule and not its numbers.
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
    """Of the convolutions and linear layers of a network on the meta device, for one image at a site."""
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
