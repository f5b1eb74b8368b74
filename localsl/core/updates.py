"""When each parameter of a network may be updated within a step: after the last loss that reads it."""

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
    """What a module's loss was the last to read.

    Attributes:
        momentum_layers: to be moved first, by weights that are not yet updated.
        parameters: to be updated then.
    """

    momentum_layers: list[FollowingLayer] = field(default_factory=list[FollowingLayer])
    parameters: list[nn.Parameter] = field(default_factory=list[nn.Parameter])


_known: WeakKeyDictionary[Learner, dict[int, Update]] = WeakKeyDictionary()


def per_module(network: Learner) -> dict[int, Update]:
    """The updates of a step by the module whose loss they follow; together they are the single update.

    Found once for a network.

    A momentum layer moves together with the layer that it follows, right before that layer's update, and is
    itself updated no earlier: its average is taken before its gradient is, as in the single update.
    """
    if network not in _known:
        if isinstance(network, LocalNetwork):
            _known[network] = _found(network)
        else:  # nothing is known of what its losses read: all is updated after the last one
            last = network.local_modules[-1].index
            _known[network] = {last: Update(parameters=list(network.parameters()))}
    return _known[network]


def _found(network: LocalNetwork) -> dict[int, Update]:
    last: dict[nn.Parameter, int] = {}
    for module in network.held:
        for read in _read(network, module):
            last |= dict.fromkeys(read.parameters(), module.index)
    updates: dict[int, Update] = {}
    for layer in network.following():
        if layer.follower is None:
            continue
        # Of a stage, a live layer may be another stage's: nothing here reads it but the average.
        both = [p for p in (*layer.live.parameters(), *layer.follower.parameters()) if p in last]
        moved = max(last[p] for p in both)
        last |= dict.fromkeys(both, moved)
        updates.setdefault(moved, Update()).momentum_layers.append(layer)
    for parameter in network.parameters():
        if parameter in last:
            updates.setdefault(last[parameter], Update()).parameters.append(parameter)
    return updates


def _read(network: LocalNetwork, module: LocalModule) -> Iterator[nn.Module]:
    """What runs in a module's turn; a module without a loss is read by a later one's cascade."""
    for part in module.objective.parts:
        for index in range(module.index - part.span + 1, module.index + 1):
            yield from network.layers_of(network.local_modules[index])
        if part.bridge is not None:
            yield part.bridge
        yield from (term.network for term in part.terms)
