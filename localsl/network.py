"""The one network class: a backbone cut into gradient-isolated modules, each with its own objective.

A local rule differs from backpropagation in one thing only: where the graph is cut, and what loss sits at
each cut. Backpropagation is the case of one module.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localsl import backbones
from localsl.init import normal_fan_out, seeded

if TYPE_CHECKING:
    from localsl.backbones import Backbone
    from localsl.config import Config


@dataclass(frozen=True)
class Site:
    """Where an auxiliary network is attached: the output of a module.

    Attributes:
        module: index of the module, from 0.
        layer: index of its last local layer.
        channels, size: of the features, (N, channels, size, size).
    """

    module: int
    layer: int
    channels: int
    size: int


@dataclass(frozen=True)
class Classification:
    """The cross-entropy term of an objective, averaged over the batch."""

    head: nn.Module
    weight: float = 1.0
    name: str = "ce"

    def __call__(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and how many of the batch the head gets right."""
        logits = self.head(features)
        correct = (logits.detach().argmax(1) == targets).sum()
        return F.cross_entropy(logits, targets), correct


@dataclass(frozen=True)
class Objective:
    """What trains a module: a weighted sum of terms on its features.

    A plain description: the networks in it are registered by the `LocalNetwork` that it is given to.
    """

    terms: list[Classification]

    def networks(self) -> nn.ModuleDict:
        """The auxiliary networks, by the name of their term."""
        return nn.ModuleDict({term.name: term.head for term in self.terms})


@dataclass(frozen=True)
class LocalLoss:
    """The loss of one gradient-isolated module for one batch.

    Attributes:
        module: index of the module that it ends, from 0.
        total: scalar, the sum of weights[k] * terms[k]: to be backpropagated before the next is asked for.
        terms: unweighted losses by name.
        weights: by the same names.
        correct: right answers of the module's classifier in the batch, an integer scalar left on the device.
    """

    module: int
    total: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float]
    correct: Tensor | None


@dataclass(frozen=True)
class LocalModule:
    """A run of local layers between two cuts, and what trains it."""

    index: int
    layers: range
    objective: Objective = field(repr=False)


class LocalNetwork(nn.Module):
    """A backbone, its partition into modules, and the auxiliary networks that train them.

    Calling it runs the backbone alone: images (N, 3, H, W), normalised, to logits (N, classes).
    `state_dict()` has the backbone under `backbone.` whatever the rule, the rest under `auxiliary.`.
    """

    def __init__(
        self,
        backbone: Backbone,
        names: list[str],
        groups: list[range],
        objectives: list[Objective],
    ):
        """`names` of all local layers; an objective for every group but the last, which is the output's."""
        super().__init__()
        self.backbone = backbone
        self.names = names
        self.auxiliary = nn.ModuleList([*(o.networks() for o in objectives), nn.ModuleDict()])
        output = Objective([Classification(backbone.classifier)])
        self.local_modules = [
            LocalModule(index, layers, objective)
            for index, (layers, objective) in enumerate(zip(groups, [*objectives, output], strict=True))
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the plain backbone; no auxiliary network runs."""
        x = images
        for layer in self.backbone.layers:
            x = layer(x)
        return self.backbone.classifier(x)

    def local_losses(self, images: Tensor, targets: Tensor) -> Iterator[LocalLoss]:
        """The loss of every module in turn, each on a graph of its own.

        The caller backpropagates each before asking for the next. That frees the module's graph before the
        next one is built, which is all the memory that local learning saves: summing the losses would need
        more than backpropagation does.

        Args:
            images: normalised, (N, 3, H, W).
            targets: class indices, (N,) int64.
        """
        x = images
        for module in self.local_modules:
            for index in module.layers:
                x = self.backbone.layers[index](x)
            yield self._loss(module, x, targets)
            x = x.detach()

    def update_ema(self) -> None:
        """Move what follows other layers' weights: once per step, before the optimizer's.

        No rule here has such layers yet, so nothing moves.
        """

    def modules_table(self) -> list[dict[str, Any]]:
        """One row a module: its layers, its auxiliary networks and the parameters of both.

        The classifier's parameters are the last module's, which has no auxiliary network.
        """
        rows = []
        for module in self.local_modules:
            aux = cast(nn.ModuleDict, self.auxiliary[module.index])
            own = sum(count_parameters(self.backbone.layers[i]) for i in module.layers)
            if module is self.local_modules[-1]:
                own += count_parameters(self.backbone.classifier)
            rows.append(
                {
                    "module": module.index,
                    "layers": " ".join(self.names[i] for i in module.layers),
                    "aux": " ".join(type(network).__name__ for network in aux.values()) or "-",
                    "parameters": own,
                    "aux_parameters": count_parameters(aux),
                }
            )
        return rows

    @staticmethod
    def _loss(module: LocalModule, features: Tensor, targets: Tensor) -> LocalLoss:
        losses, weights, correct = {}, {}, None
        for term in module.objective.terms:
            losses[term.name], correct = term(features, targets)
            weights[term.name] = term.weight
        weighted = (x if weights[name] == 1 else weights[name] * x for name, x in losses.items())
        total = functools.reduce(torch.add, weighted)
        return LocalLoss(module.index, total, losses, weights, correct)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def sites(cfg: Config, groups: list[range]) -> list[Site]:
    """The outputs of all modules but the last, which an auxiliary network can be attached to."""
    layers = backbones.local_layers(cfg.backbone)
    sizes, size = [], cfg.dataset.image_size
    for layer in layers:
        size = -(-size // layer.stride)
        sizes.append(size)
    ends = [group[-1] for group in groups[:-1]]
    return [Site(i, end, layers[end].channels, sizes[end]) for i, end in enumerate(ends)]


def build_network(cfg: Config) -> LocalNetwork:
    """The network of a configuration, with its initial weights: a function of `cfg` alone.

    The backbone's weights depend on the seed and the backbone only, so that rules start from the same
    network; each module's auxiliary networks have random numbers of their own.
    """
    groups = cfg.method.groups(cfg)
    with seeded(cfg.seed, "backbone"):
        backbone = backbones.build(cfg.backbone, cfg.dataset.num_classes)
    objectives = []
    for site in sites(cfg, groups):
        with seeded(cfg.seed, "auxiliary", site.module):
            objective = cfg.method.objective(cfg, site)
            normal_fan_out(objective.networks())
        objectives.append(objective)
    names = [layer.name for layer in backbones.local_layers(cfg.backbone)]
    return LocalNetwork(backbone, names, groups, objectives)
