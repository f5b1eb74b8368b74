"""LAM: which later layers a module's leap bridge is made of, and the bridge (MLAAN, Zhang et al. 2025).

The paper says "early, intermediate and deeper layers of the subsequent modules"; its released tables give the
layers for ResNet-32 and ResNet-110, and on ImageNet for ResNet-34, 101 and 152. Any other backbone gets what the
tables for small images have in common: every later layer that changes the shape, so that they fit, layers after
these up to four in all, and always the network's last layer.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from torch import nn

from localsl.aux_nets.momentum import EmaSettings, MomentumLayer
from localsl.core.plan import Plan
from localsl.published import constants


def select(plan: Plan, module: int) -> list[int]:
    """Indices of the layers for a module's bridge, ascending, ending in the network's last stage.

    All are later than the module's, but where the released tables for ImageNet have one of its own or before.
    """
    names, last = [layer.name for layer in plan.layers], plan.end(module)
    published = constants.leap_layers(plan.architecture.name, plan.modules, names[last])
    return _any(plan, last) if published is None else [names.index(name) for name in published]


def _any(plan: Plan, last: int) -> list[int]:
    layers, final = plan.layers, len(plan.layers) - 1
    pairs = enumerate(pairwise(layers), 1)
    shaping = [i for i, (before, own) in pairs if own.stride > 1 or own.channels != before.channels]
    shaping = [i for i in shaping if i > last]
    after = shaping[-1] if shaping else last
    extra = max(0, 3 - len(shaping)) if shaping else 1
    step = (final - after) / (extra + 1)
    between = {after + round(step * i) for i in range(1, extra + 1)} - {after, final}
    return sorted({*shaping, *between, final})


def bridge(plan: Plan, module: int, ema: EmaSettings, momentum: float) -> nn.Sequential:
    """Copies of the selected layers in a chain, each or only the first with a moving average (`ema.layers`)."""
    trained = replace(ema, source="none", bias="block")
    layers = []
    for position, index in enumerate(select(plan, module)):
        follows = position == 0 or ema.layers == "all"
        settings = ema if follows else trained
        live = plan.backbone.layers[index]
        layers.append(MomentumLayer(live, plan.layers[index].channels, settings, momentum))
    return nn.Sequential(*layers)
