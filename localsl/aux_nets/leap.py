"""LAM: which later layers a module's leap bridge is made of, and the bridge (MLAAN, Zhang et al. 2025).

The paper says "early, intermediate and deeper layers of the subsequent modules"; its released tables give the
layers for ResNet-32 and ResNet-110, and on ImageNet for ResNet-34, 101 and 152, and follow the rules below. Any
other backbone gets the rule that those for small images have in common: every later layer that changes the
shape, so that they fit, layers after these up to four in all, and always the network's last layer.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from torch import nn

from localsl.aux_nets.momentum import MomentumLayer
from localsl.plan import Plan

# Where the released tables differ from their own rules: (backbone, modules, the module's last layer).
EXCEPTIONS = {
    ("resnet32", 15, "1.2"): "2.0 3.0 3.3 3.4",
    ("resnet32", 15, "3.0"): "3.1 3.2 3.4",
    ("resnet110", 32, "3.15"): "3.17",
}


def select(plan: Plan, module: int) -> list[int]:
    """Indices of the layers for a module's bridge, ascending, ending in the network's last stage.

    All are later than the module's, but where the released tables for ImageNet have one of its own or before.
    """
    names = [layer.name for layer in plan.layers]
    last, backbone = plan.end(module), plan.cfg.backbone.name
    chosen = EXCEPTIONS.get((backbone, plan.modules, names[last]))
    rule = RULES.get(backbone)
    if rule is None:
        return _any(plan, last)
    return [names.index(name) for name in (chosen or rule(names[last])).split()]


def _resnet32(end: str) -> str:
    if end.startswith("3."):
        return " ".join(f"3.{j}" for j in (2, 3, 4) if j > int(end[2:]))
    if end.startswith("2."):
        return "3.0 3.2 3.3 3.4"
    return "2.0 3.0 3.3 3.4" if end == "1.4" else "2.0 3.0 3.2 3.4"


def _resnet110(end: str) -> str:
    if end == "2.17":
        return "3.0 3.3 3.4 3.17"
    if end.startswith("2."):
        return "3.0 3.2 3.3 3.17"
    if not end.startswith("3."):
        return "2.0 3.0 3.2 3.17"
    block = int(end[2:])
    middle = next((m for below, m in ((7, 8), (11, 14), (13, 15), (16, 16)) if block < below), None)
    return "3.17" if middle is None else f"3.{middle} 3.17"


def _resnet34(end: str) -> str:
    if end.startswith("4."):
        return "4.1 4.1 4.2" if end == "4.0" else "4.1 4.2"
    later = {"2": "2.1 3.0 4.0 4.2", "3": "3.1 4.0 4.1"}
    return later.get(end[0], "2.0 2.1 3.0 4.0 4.2")


def _bottlenecks(end: str) -> str:
    later = {"2": "3.0 4.0 4.1", "3": "4.0 4.1", "4": "4.1 4.2"}
    # The released modules never end with the stem, whose channels are not yet four times the stage's.
    return ("1.0 " if end == "stem" else "") + later.get(end[0], "2.0 3.0 4.0 4.2")


RULES = {
    "resnet32": _resnet32,
    "resnet110": _resnet110,
    "resnet34": _resnet34,
    "resnet101": _bottlenecks,
    "resnet152": _bottlenecks,
}


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


def bridge(plan: Plan, module: int, momentum: float) -> nn.Sequential:
    """Copies of the selected layers in a chain, each or only the first with a moving average (`ema.layers`)."""
    trained = replace(plan.cfg.ema, source="none", bias="block")
    layers = []
    for position, index in enumerate(select(plan, module)):
        follows = position == 0 or plan.cfg.ema.layers == "all"
        settings = plan.cfg.ema if follows else trained
        live = plan.backbone.layers[index]
        layers.append(MomentumLayer(live, plan.layers[index].channels, settings, momentum))
    return nn.Sequential(*layers)
