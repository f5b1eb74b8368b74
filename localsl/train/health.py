"""Detecting modules that do not learn, which gradient isolation can hide in a network that trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

if TYPE_CHECKING:
    from localsl.core.learner import Learner

PATIENCE = 3  # epochs without learning before a module is reported
MARGIN = 1.1  # accuracies below this multiple of chance count as chance
FALLEN = 0.999  # a loss has fallen once it is below this fraction of its first epoch's

# A gradient whose norm is below this fraction of the weights' norm changes nothing in float32.
VANISHED = 1e-9

Norms = Mapping[nn.Parameter, Tensor]


def complaints(
    network: Learner, rows: list[dict[str, Any]], classes: int, norms: Norms | None = None
) -> list[str]:
    """Messages on modules that have not learned for `PATIENCE` epochs, and on modules whose gradients vanish.

    A module with a classifier is judged by its accuracy, others by their loss.

    Args:
        network: the network after the last step of an epoch, with the gradients that the step keeps.
        rows: the rows of metrics.csv so far.
        classes: the number of classes of the data set.
        norms: the norms of gradients that the step does not keep.
    """
    found = [text for module in network.local_modules if (text := _stuck(module, rows, classes)) is not None]
    return found + [f"the gradients of module {module} vanish" for module in _vanished(network, norms or {})]


def _stuck(module: Any, rows: list[dict[str, Any]], classes: int) -> str | None:
    last = [row[f"module_{module.index}_accuracy"] for row in rows[-PATIENCE:]]
    accuracies = [accuracy for accuracy in last if accuracy is not None]
    if len(last) < PATIENCE:
        return None
    if accuracies:
        at_chance = max(accuracies) < MARGIN * 100 / classes
        return f"module {module.index} stays at chance" if at_chance else None
    losses: list[Any] = [row.get(f"module_{module.index}_loss") for row in rows]
    if losses[0] is None or len(losses) <= PATIENCE or min(losses[-PATIENCE:]) < FALLEN * losses[0]:
        return None
    return f"the loss of module {module.index} does not fall"


@contextmanager
def gradient_norms(network: nn.Module) -> Iterator[Norms]:
    """Record the norms of gradients computed in this context, for steps that free them."""
    norms: dict[nn.Parameter, Tensor] = {}

    def record(parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        assert parameter.grad is not None
        norms[parameter] = parameter.grad.norm()

    hooks = [p.register_post_accumulate_grad_hook(record) for p in network.parameters() if p.requires_grad]
    try:
        yield norms
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _vanished(network: Learner, freed: Norms) -> list[int]:
    """Modules whose layers have gradients that are negligible relative to the weights."""
    norms, modules = [], []
    for module in network.local_modules:
        parameters = [p for layer in network.layers_of(module) for p in layer.parameters()]
        kept = [p.grad for p in parameters if p.grad is not None]
        gradients = kept or [freed[p] for p in parameters if p in freed]
        if gradients:
            modules.append(module.index)
            norms.append(torch.stack([get_total_norm(gradients), get_total_norm(parameters)]))
    if not norms:
        return []
    ratios = [gradient <= VANISHED * weight for gradient, weight in torch.stack(norms).tolist()]
    return [module for module, vanished in zip(modules, ratios, strict=True) if vanished]
