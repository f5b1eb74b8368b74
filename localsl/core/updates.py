"""The earliest moment in a step at which each parameter may be updated: after the last loss that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn

from localsl.core.following import FollowingLayer
from localsl.core.learner import Learner
from localsl.core.network import LocalModule, LocalNetwork


@dataclass
class Update:
    """What can be updated after a module's loss, because no later loss of the step reads it.

    Attributes:
        momentum_layers: momentum layers, which move first, while the weights they follow are not yet updated.
        parameters: parameters, which the optimizer updates next.
    """

    momentum_layers: list[FollowingLayer] = field(default_factory=list[FollowingLayer])
    parameters: list[nn.Parameter] = field(default_factory=list[nn.Parameter])


_cache: WeakKeyDictionary[Learner, dict[int, Update]] = WeakKeyDictionary()


def per_module(network: Learner) -> dict[int, Update]:
    """The updates of a step, keyed by the module after whose loss they happen; cached for each network.

    Together they equal one update at the end of the step. A momentum layer therefore moves right before the layer
    that it follows is updated, and its own gradient step comes after its average, not before.
    """
    if network not in _cache:
        if isinstance(network, LocalNetwork):
            _cache[network] = _updates(network)
        else:  # which weights its losses read is unknown, so everything is updated after the last loss
            last = network.local_modules[-1].index
            _cache[network] = {last: Update(parameters=list(network.parameters()))}
    return _cache[network]


def _updates(network: LocalNetwork) -> dict[int, Update]:
    last: dict[nn.Parameter, int] = {}
    for module in network.held:
        for run in _modules_run(network, module):
            last |= dict.fromkeys(run.parameters(), module.index)
    updates: dict[int, Update] = {}
    for layer in network.following():
        if layer.follower is None or not layer.follows:
            continue
        # In a pipeline stage, the live layer may belong to another stage; then no loss here reads it.
        both = [p for p in (*layer.live.parameters(), *layer.follower.parameters()) if p in last]
        moved = max(last[p] for p in both)
        last |= dict.fromkeys(both, moved)
        updates.setdefault(moved, Update()).momentum_layers.append(layer)
    for parameter in network.parameters():
        if parameter in last:
            updates.setdefault(last[parameter], Update()).parameters.append(parameter)
    return updates


def _modules_run(network: LocalNetwork, module: LocalModule) -> Iterator[nn.Module]:
    """What a module's losses run: layers of every module that they span, bridges, and auxiliary networks."""
    for part in module.objective.parts:
        for index in range(module.index - part.span + 1, module.index + 1):
            yield from network.layers_of(network.local_modules[index])
        if part.bridge is not None:
            yield part.bridge
        yield from (term.network for term in part.terms)
