"""LAM: which later layers a module's leap bridge is made of, and the bridge (MLAAN, Zhang et al. 2025).

The paper says "early, intermediate and deeper layers of the subsequent modules"; its released tables give the
layers for ResNet-32 and ResNet-110, and follow the rules below. Any other backbone gets the rule that they
have in common: the first layer of every later stage, so that shapes fit, layers of the last stage up to four in
all, and always the network's last layer.
"""

from __future__ import annotations

from dataclasses import replace

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
    """Indices of the later layers for a module's bridge, ascending, ending with the network's last."""
    names = [layer.name for layer in plan.layers]
    last, backbone = plan.end(module), plan.cfg.backbone.name
    chosen = EXCEPTIONS.get((backbone, plan.modules, names[last]))
    rule = {"resnet32": _resnet32, "resnet110": _resnet110}.get(backbone)
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


def _any(plan: Plan, last: int) -> list[int]:
    stages = [layer.stage for layer in plan.layers]
    final = len(stages) - 1
    firsts = [stages.index(s) for s in sorted(set(stages)) if s > stages[last]]
    after = firsts[-1] if firsts else last
    extra = max(0, 3 - len(firsts)) if firsts else 1
    step = (final - after) / (extra + 1)
    between = {after + round(step * i) for i in range(1, extra + 1)} - {after, final}
    return sorted({*firsts, *between, final})


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
