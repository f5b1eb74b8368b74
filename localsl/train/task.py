"""The interface of a task, classification or detection, to the training loop."""

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

# Figures, in per cent, that choose the best epoch of a run, and their printed names; each task has one of them.
SCORES = {"test_accuracy": "test", "ap_box": "box AP"}


def score(figures: Mapping[str, Any]) -> float:
    """The figure that epochs are compared by, from the figures of a test, a row of metrics.csv or a record."""
    return next(figures[name] for name in SCORES if name in figures)


class TrainingBatches(Protocol):
    """Batches of the inputs of `Learner.local_losses`; the length of the targets is the number of images."""

    def __len__(self) -> int: ...

    def epoch(self, seed: int, epoch: int, skip: int = 0) -> Iterator[tuple[Any, Any]]:
        """Batches of one epoch in the order that (seed, epoch) determine, without the first `skip`."""
        ...

    def close(self) -> None:
        """Stop the worker processes, if there are any."""
        ...


class TestBatches(Protocol):
    """Batches of the inputs of `Task.evaluate`."""

    def __iter__(self) -> Iterator[tuple[Any, Any]]: ...

    def close(self) -> None:
        """Stop the worker processes, if there are any."""
        ...


@dataclass(frozen=True)
class Batches:
    """The batches of a run, or of one of its processes."""

    train: TrainingBatches
    test: TestBatches
    validation: TestBatches | None = None


class Figures(Protocol):
    """The figures of an evaluation."""

    @property
    def loss(self) -> float | None:
        """The mean loss per image; None for a task whose evaluation has no loss."""
        ...

    @property
    def accuracies(self) -> dict[str, float]:
        """Accuracies in per cent by their names in metrics.csv; one of them is in SCORES."""
        ...


class Task(ABC):
    """A network and the data that it is trained and tested on.

    Attributes:
        network: the network with its initial weights.
        images: the numbers of images for `train`, `test` and, if some are held out of training, `validation`.
        classes: the number of classes of the data set.
        record: fields of a run's record that are specific to the task.
    """

    network: Learner
    images: dict[str, int]
    classes: int
    record: dict[str, Any]

    @abstractmethod
    def describe(self) -> str:
        """Describe the network and the data, to be printed before a run starts."""

    @abstractmethod
    def batches(self, device: torch.device, layout: torch.memory_format, part: Part) -> Batches:
        """The batches of this process, whose share of the images is `part`."""

    @abstractmethod
    def evaluate(self, batches: Iterable[tuple[Any, Any]], forward: Autocast, team: Team) -> Figures:
        """Evaluate the network on the batches of all processes."""

    def complaints(self, rows: list[dict[str, Any]], norms: Norms | None) -> list[str]:
        """Messages on modules that do not learn, after an epoch."""
        return health.complaints(self.network, rows, self.classes, norms)
