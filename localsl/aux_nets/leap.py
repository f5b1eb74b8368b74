"""Leap bridges (LAM) of MLAAN (Zhang et al. 2025): the choice of later layers that form one, and the bridge.

The paper names "early, intermediate and deeper layers of the subsequent modules". Its released tables list the
layers for ResNet-32 and ResNet-110, and for ResNet-34, 101 and 152 on ImageNet. For other backbones this file
follows the pattern of the tables for small images: every later layer that changes the shape, so that consecutive
layers fit, then further layers up to four in all, and always the network's last layer.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from torch import nn

from localsl.aux_nets.momentum import EmaSettings, MomentumLayer
from localsl.core.plan import Plan
from localsl.published import constants


def select(plan: Plan, module: int) -> list[int]:
    """The indices of the layers of a module's bridge, in ascending order; the last is in the last stage.

    All lie after the module, except in the released ImageNet tables, which also list some layers in or before it.
    """
    names, last = [layer.name for layer in plan.layers], plan.end(module)
    published = constants.leap_layers(plan.architecture.name, plan.modules, names[last])
    return _default_layers(plan, last) if published is None else [names.index(name) for name in published]


def _default_layers(plan: Plan, last: int) -> list[int]:
    layers, final = plan.layers, len(plan.layers) - 1
    pairs = enumerate(pairwise(layers), 1)
    shaping = [i for i, (before, layer) in pairs if layer.stride > 1 or layer.channels != before.channels]
    shaping = [i for i in shaping if i > last]
    after = shaping[-1] if shaping else last
    extra = max(0, 3 - len(shaping)) if shaping else 1
    step = (final - after) / (extra + 1)
    between = {after + round(step * i) for i in range(1, extra + 1)} - {after, final}
    return sorted({*shaping, *between, final})


def bridge(plan: Plan, module: int, ema: EmaSettings, momentum: float) -> nn.Sequential:
    """A chain of copies of the selected layers, all momentum layers or, by `ema.layers`, only the first."""
    trained = replace(ema, source="none", bias="block")
    layers = []
    for position, index in enumerate(select(plan, module)):
        follows = position == 0 or ema.layers == "all"
        settings = ema if follows else trained
        live, layer = plan.backbone.layers[index], plan.layers[index]
        layers.append(MomentumLayer(live, layer.channels, settings, momentum, layer.layout))
    return nn.Sequential(*layers)
