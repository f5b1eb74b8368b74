"""What trains a module: an objective, made of parts that each have a graph, an optional bridge, and terms.

    features of a module -> bridge -> terms: heads or decoders, each with its loss and weight

Objectives are plain descriptions; `LocalNetwork` registers the networks in them.
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
    """A batch, and values of it that several terms use."""

    def __init__(self, images: Tensor, targets: Tensor, mean: Tensor, std: Tensor, classes: int):
        self.images, self.targets = images, targets
        self._mean, self._std, self._classes = mean, std, classes

    @property
    def pixels(self) -> Tensor:
        """The augmented images before normalisation, (N, 3, H, W) in [0, 1].

        They are not cached: recomputing them costs less than keeping them in memory while other modules run.
        """
        return self.images * self._std + self._mean

    @cached_property
    def similarity(self) -> Tensor:
        """The similarity of the targets, (N, N): 1 for equal classes, -1 / (classes - 1) for different ones."""
        return losses.similarity_matrix(F.one_hot(self.targets, self._classes))


@dataclass(frozen=True)
class Term(ABC):
    """A loss on the output of a network that takes features (N, C, H, W), and the weight of that loss."""

    name: ClassVar[str]
    network: nn.Module
    weight: float = 1.0

    def prepare(self, batch: Batch) -> None:  # noqa: B027  most terms share nothing
        """Have the batch compute values that the losses of several modules share."""

    @abstractmethod
    def __call__(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The unweighted loss, and for a classifier the number of its correct predictions in the batch."""


@dataclass(frozen=True)
class CrossEntropy(Term):
    """A classifier's mean cross-entropy."""

    name: ClassVar[str] = "ce"

    def __call__(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the loss and the number of correct predictions."""
        logits = self.network(features)
        correct = (logits.detach().argmax(1) == batch.targets).sum()
        return F.cross_entropy(logits, batch.targets), correct


@dataclass(frozen=True)
class Contrastive(Term):
    """The supervised contrastive loss of a head's embedding."""

    name: ClassVar[str] = "contrastive"

    def __call__(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the loss."""
        return losses.supervised_contrastive(self.network(features), batch.targets), None


@dataclass(frozen=True)
class Reconstruction(Term):
    """The binary cross-entropy of a decoder's reconstruction of the input image."""

    name: ClassVar[str] = "reconstruction"

    def __call__(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the loss."""
        return losses.reconstruction(self.network(features), batch.pixels), None


@dataclass(frozen=True)
class Similarity(Term):
    """PredSim's similarity matching between projected features and targets."""

    name: ClassVar[str] = "similarity"

    def prepare(self, batch: Batch) -> None:
        """Have the batch compute the similarity of its targets."""
        _ = batch.similarity

    def __call__(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the loss."""
        return losses.similarity_matching(self.network(features), batch.similarity), None


@dataclass(frozen=True)
class Part:
    """Terms at the end of one path through the network.

    Attributes:
        terms: losses on the bridge's output.
        bridge: a network between the features and the terms, or None.
        span: the number of modules that the graph covers, ending with the objective's own. 1 is a local loss; a
            larger span is a cascade, whose gradients reach back over that many modules.
        weight: multiplies the weights of all its terms.
        name: prefix of the names of its terms ("cascaded/ce") where an objective has several parts.
    """

    terms: Sequence[Term]
    bridge: nn.Module | None = None
    span: int = 1
    weight: float = 1.0
    name: str = ""

    @property
    def prefix(self) -> str:
        """The prefix of the names of its terms."""
        return f"{self.name}/" if self.name else ""

    def prepare(self, batch: Batch) -> None:
        """Prepare the batch for all terms. Call it before `losses`, which may be compiled."""
        for term in self.terms:
            term.prepare(batch)

    def losses(self, features: Tensor, batch: Batch) -> tuple[dict[str, Tensor], Tensor | None]:
        """The unweighted losses by name, and the number of correct predictions of the last classifier."""
        bridged = features if self.bridge is None else self.bridge(features)
        found: dict[str, Tensor] = {}
        correct = None
        for term in self.terms:
            found[self.prefix + term.name], hits = term(bridged, batch)
            correct = correct if hits is None else hits
        return found, correct


@dataclass(frozen=True)
class Objective:
    """All losses that are backpropagated after a module has run.

    Attributes:
        parts: may be empty; the module then has no loss of its own.
        dropout: probability that a channel of the features is dropped before the next module; the objective's
            own terms see all channels.
    """

    parts: Sequence[Part] = field(default_factory=list[Part])
    dropout: float = 0.0

    @property
    def weights(self) -> dict[str, float]:
        """The weights of all terms by name, each including the weight of its part."""
        return {
            part.prefix + term.name: part.weight * term.weight for part in self.parts for term in part.terms
        }

    def networks(self, exclude: nn.Module) -> nn.ModuleDict:
        """The auxiliary networks by name. `exclude` is the backbone's classifier, which is none of them."""
        found: dict[str, nn.Module] = {}
        for part in self.parts:
            if part.bridge is not None:
                found[f"{part.prefix}bridge"] = part.bridge
            found |= {f"{part.prefix}{term.name}": term.network for term in part.terms}
        return nn.ModuleDict({name: network for name, network in found.items() if network is not exclude})


def weighted_sum(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The sum of weights[k] * terms[k], without multiplications by a weight of 1."""
    total: Tensor | None = None
    for name, loss in terms.items():
        weighted = loss if weights[name] == 1 else weights[name] * loss
        total = weighted if total is None else total + weighted
    if total is None:
        raise ValueError("no terms")
    return total


def weightless(objectives: Sequence[Objective]) -> list[int]:
    """Indices of modules that are not trained, because all terms of their objectives have weight 0."""
    return [i for i, o in enumerate(objectives) if o.parts and not any(o.weights.values())]


def open_cuts(objectives: Sequence[Objective]) -> list[int]:
    """Indices, from 1, of the modules at which a pipeline stage can begin: no loss's graph crosses their input."""
    closed: set[int] = set()
    for module, objective in enumerate(objectives):
        for part in objective.parts:
            closed |= set(range(module - part.span + 2, module + 1))
    return [module for module in range(1, len(objectives)) if module not in closed]
