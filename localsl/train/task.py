"""What a network is trained for: its batches, its test figures, and what a record says of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from localsl.core.learner import Learner
from localsl.execution.processes import Part, Team
from localsl.train import health
from localsl.train.health import Norms
from localsl.train.step import Autocast

# Figures by which the best epoch of a run is chosen, in per cent; each task has one of them.
SCORES = {"test_accuracy": "test", "ap_box": "box AP"}


def score(figures: Mapping[str, Any]) -> float:
    """The figure by which epochs are compared, of those of a test, a line of metrics.csv or a record's part."""
    return next(figures[name] for name in SCORES if name in figures)


class TrainingBatches(Protocol):
    """Batches of whatever `Learner.local_losses` takes; targets have a length, the number of images."""

    def __len__(self) -> int: ...

    def epoch(self, seed: int, epoch: int, skip: int = 0) -> Iterator[tuple[Any, Any]]:
        """One epoch, in the order of (seed, epoch), without the first `skip`."""
        ...

    def close(self) -> None:
        """Let go of what makes them."""
        ...


class TestBatches(Protocol):
    """Batches of whatever `Task.evaluate` takes."""

    def __iter__(self) -> Iterator[tuple[Any, Any]]: ...

    def close(self) -> None:
        """Let go of what makes them."""
        ...


@dataclass(frozen=True)
class Batches:
    """All batches of a run, or of one of its processes."""

    train: TrainingBatches
    test: TestBatches
    validation: TestBatches | None = None


class Figures(Protocol):
    """What a test found."""

    @property
    def loss(self) -> float | None:
        """The mean over images; None where the test has none."""
        ...

    @property
    def accuracies(self) -> dict[str, float]:
        """In per cent, by their names in metrics.csv; one of them is in SCORES."""
        ...


class Task(ABC):
    """A network and the data that it is trained and tested on.

    Attributes:
        network: with its initial weights.
        images: how many an epoch has (`train`), a `test`, and those held out of training (`validation`), if any.
        classes: of the data set.
        record: what its record says beside what all records say.
    """

    network: Learner
    images: dict[str, int]
    classes: int
    record: dict[str, Any]

    @abstractmethod
    def describe(self) -> str:
        """What is worth knowing before a run starts."""

    @abstractmethod
    def batches(self, device: torch.device, layout: torch.memory_format, part: Part) -> Batches:
        """This process's part of the batches."""

    @abstractmethod
    def evaluate(self, batches: Iterable[tuple[Any, Any]], forward: Autocast, team: Team) -> Figures:
        """Test the network on all processes' batches."""

    def complaints(self, rows: list[dict[str, Any]], norms: Norms | None) -> list[str]:
        """What keeps modules from learning, as far as it can be seen after an epoch."""
        return health.complaints(self.network, rows, self.classes, norms)
