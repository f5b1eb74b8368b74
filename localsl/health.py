"""Modules that do not learn: gradient isolation hides a dead one behind a network that trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import get_total_norm

if TYPE_CHECKING:
    from localsl.network import LocalNetwork

# Epochs without learning before something is said, and how much above chance is still chance.
PATIENCE = 3
MARGIN = 1.1

# A gradient this much smaller than the weights that it is for moves nothing in float32.
VANISHED = 1e-9


def complaints(network: LocalNetwork, rows: list[dict[str, Any]], classes: int) -> list[str]:
    """Modules whose classifier was at chance in the last `PATIENCE` epochs, and whose gradients vanish.

    Args:
        network: after an epoch's last step, its gradients still there where they are kept.
        rows: the lines of metrics.csv so far.
        classes: of the data set.
    """
    found, last = [], rows[-PATIENCE:]
    for module in network.local_modules:
        accuracies = [row[f"module_{module.index}_accuracy"] for row in last]
        at_chance = [a is not None and a < MARGIN * 100 / classes for a in accuracies]
        if len(last) == PATIENCE and all(at_chance):
            found.append(f"module {module.index} stays at chance")
    return found + [f"the gradients of module {module} vanish" for module in _vanished(network)]


@torch.no_grad()
def _vanished(network: LocalNetwork) -> list[int]:
    """Modules whose layers have gradients, all of them nothing beside the weights."""
    norms, modules = [], []
    for module in network.local_modules:
        parameters = [p for layer in network.layers_of(module) for p in layer.parameters()]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients:
            modules.append(module.index)
            norms.append(torch.stack([get_total_norm(gradients), get_total_norm(parameters)]))
    if not norms:
        return []
    ratios = [gradient <= VANISHED * weight for gradient, weight in torch.stack(norms).tolist()]
    return [module for module, vanished in zip(modules, ratios, strict=True) if vanished]
