"""What trains a module: parts, each a stretch of network with a graph of its own, a bridge, and terms.

    features of a module -> bridge -> terms: heads or decoders, each with its loss and weight

Plain descriptions: the `LocalNetwork` that an objective is given to registers the networks in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from localsl.core import losses


class Batch:
    """A batch, and what several terms need of it."""

    def __init__(self, images: Tensor, targets: Tensor, mean: Tensor, std: Tensor, classes: int):
        self.images, self.targets = images, targets
        self._mean, self._std, self._classes = mean, std, classes

    @property
    def pixels(self) -> Tensor:
        """The augmented images before normalisation, in [0, 1], (N, 3, H, W).

        Not kept: recomputing them costs less than having them in memory while other modules run.
        """
        return self.images * self._std + self._mean

    @cached_property
    def similarity(self) -> Tensor:
        """How alike the targets are, (N, N): 1 for the same class, -1 / (classes - 1) for another.

        Computed once a step.
        """
        return losses.similarity_matrix(F.one_hot(self.targets, self._classes))


@dataclass(frozen=True)
class Term(ABC):
    """A loss on what a network makes of features, (N, C, H, W), and its weight."""

    name: ClassVar[str]
    network: nn.Module
    weight: float = 1.0

    def prepare(self, batch: Batch) -> None:  # noqa: B027  most share nothing
        """Have the batch compute what several modules' losses share."""

    @abstractmethod
    def __call__(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The unweighted loss; for a classifier also how many of the batch it gets right."""


@dataclass(frozen=True)
class CrossEntropy(Term):
    """A classifier's mean cross-entropy."""

    name: ClassVar[str] = "ce"

    def __call__(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The loss, and the right answers."""
        logits = self.network(features)
        correct = (logits.detach().argmax(1) == batch.targets).sum()
        return F.cross_entropy(logits, batch.targets), correct


@dataclass(frozen=True)
class Contrastive(Term):
    """The supervised contrastive loss of a head's embedding."""

    name: ClassVar[str] = "contrastive"

    def __call__(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The loss."""
        return losses.supervised_contrastive(self.network(features), batch.targets), None


@dataclass(frozen=True)
class Reconstruction(Term):
    """How badly a decoder restores the input image."""

    name: ClassVar[str] = "reconstruction"

    def __call__(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The loss."""
        return losses.reconstruction(self.network(features), batch.pixels), None


@dataclass(frozen=True)
class Similarity(Term):
    """How little the similarities of projected features match those of the targets."""

    name: ClassVar[str] = "similarity"

    def prepare(self, batch: Batch) -> None:
        """The targets' similarities."""
        _ = batch.similarity

    def __call__(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The loss."""
        return losses.similarity_matching(self.network(features), batch.similarity), None


@dataclass(frozen=True)
class Part:
    """Terms on one path through the network.

    Attributes:
        terms: on what the bridge makes of the features.
        bridge: a network between the features and the terms, or None.
        span: how many modules the graph covers, ending with the objective's own. 1 is a local loss; more is
            a cascade, the graph cut that many modules earlier.
        weight: of the whole part.
        name: told before the names of its terms ("cascaded/ce") where an objective has several parts.
    """

    terms: Sequence[Term]
    bridge: nn.Module | None = None
    span: int = 1
    weight: float = 1.0
    name: str = ""

    @property
    def prefix(self) -> str:
        """Of the names of its terms."""
        return f"{self.name}/" if self.name else ""

    def prepare(self, batch: Batch) -> None:
        """To be called before `losses`, which may be compiled."""
        for term in self.terms:
            term.prepare(batch)

    def losses(self, features: Tensor, batch: Batch) -> tuple[dict[str, Tensor], Tensor | None]:
        """The unweighted losses by name, and the last classifier's right answers in the batch."""
        bridged = features if self.bridge is None else self.bridge(features)
        found: dict[str, Tensor] = {}
        correct = None
        for term in self.terms:
            found[self.prefix + term.name], right = term(bridged, batch)
            correct = correct if right is None else right
        return found, correct


@dataclass(frozen=True)
class Objective:
    """Everything whose loss is backpropagated when a module has run.

    Attributes:
        parts: without any it trains nothing.
        dropout: probability that a channel of the features is dropped on its way to the next module; the
            objective's own terms see all of them.
    """

    parts: Sequence[Part] = field(default_factory=list[Part])
    dropout: float = 0.0

    @property
    def weights(self) -> dict[str, float]:
        """Of all terms, by name."""
        return {
            part.prefix + term.name: part.weight * term.weight for part in self.parts for term in part.terms
        }

    def networks(self, but: nn.Module) -> nn.ModuleDict:
        """The auxiliary networks by name, without `but`: the backbone's own classifier."""
        found: dict[str, nn.Module] = {}
        for part in self.parts:
            if part.bridge is not None:
                found[f"{part.prefix}bridge"] = part.bridge
            found |= {f"{part.prefix}{term.name}": term.network for term in part.terms}
        return nn.ModuleDict({name: network for name, network in found.items() if network is not but})


def weighted_sum(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The sum of weights[k] * terms[k], without multiplying by 1."""
    total: Tensor | None = None
    for name, loss in terms.items():
        weighted = loss if weights[name] == 1 else weights[name] * loss
        total = weighted if total is None else total + weighted
    if total is None:
        raise ValueError("no terms")
    return total


def weightless(objectives: Sequence[Objective]) -> list[int]:
    """Indices of the modules whose objective has terms, all of weight 0: they are not trained."""
    return [i for i, o in enumerate(objectives) if o.parts and not any(o.weights.values())]


def open_cuts(objectives: Sequence[Objective]) -> list[int]:
    """The modules that a process can begin with, 0 apart: those before which no loss's graph is under way."""
    closed: set[int] = set()
    for module, objective in enumerate(objectives):
        for part in objective.parts:
            closed |= set(range(module - part.span + 2, module + 1))
    return [module for module in range(1, len(objectives)) if module not in closed]
