"""The training step, the training epoch and the evaluation, which are the same for every rule."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from localsl.core.learner import Learner, LocalLoss
from localsl.core.network import LocalNetwork
from localsl.core.updates import Update, per_module
from localsl.execution.devices import Execution
from localsl.execution.graphs import Graphs, Step
from localsl.execution.lean import Lean
from localsl.execution.processes import ALONE, Team
from localsl.execution.reduction import average_statistics, begin_average
from localsl.train.optim import Optimizer

Autocast = Callable[[], AbstractContextManager]


def autocast(precision: str, device: torch.device) -> Autocast:
    """The context of forward passes: bfloat16 autocast for bf16, none for fp32."""
    if precision == "fp32":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)


def training_forward(
    cfg: Execution, device: torch.device, watch: Callable[[Tensor], object] | None = None
) -> Autocast:
    """The context of a training step's forward passes: autocast, and recomputation for `memory=lean`.

    `watch` is called with every tensor that is kept for the backward pass.
    """

    def keep(tensor: Tensor) -> Tensor:
        if watch is not None:
            watch(tensor)
        return tensor

    @contextmanager
    def forward() -> Iterator[None]:
        kept = Lean(keep) if cfg.memory == "lean" else saved_tensors_hooks(keep, lambda tensor: tensor)
        with autocast(cfg.precision, device)(), kept:
            yield

    plain = cfg.memory == "plain" and watch is None
    return autocast(cfg.precision, device) if plain else forward


class Totals:
    """Per-module sums over an epoch, kept on the device so that an epoch synchronises only when they are read."""

    def __init__(self, network: Learner):
        modules, device = len(network.local_modules), network.device
        self._held = [module in network.held for module in network.local_modules]
        self._loss = torch.zeros(modules, dtype=torch.float64, device=device)
        self._correct = torch.zeros(modules, dtype=torch.int64, device=device)
        self._none = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        self._has_loss = [False] * modules
        self._classifies = [False] * modules
        self._images = 0

    def clear(self) -> None:
        """Reset the sums for another epoch, in place, since a recorded step adds to the same tensors."""
        self._loss.zero_()
        self._correct.zero_()
        self._images = 0

    def add(self, losses: Iterable[LocalLoss], images: int) -> None:
        """Add the losses of a step on a batch of `images` images.

        Each loss is dropped before the next one is computed, and all modules are added in one operation.
        """
        totals, correct = ([none] * len(self._has_loss) for none in self._none)
        for loss in losses:
            totals[loss.module] = loss.total.detach()
            self._has_loss[loss.module] = True
            if loss.correct is not None:
                correct[loss.module] = loss.correct
                self._classifies[loss.module] = True
        self._loss += torch.stack(totals) * images
        self._correct += torch.stack(correct)

    def batch(self, images: int) -> None:
        """Count the images of a batch."""
        self._images += images

    def state(self) -> dict[str, Any]:
        """The state for `restore`, on the CPU."""
        flags = {"has_loss": self._has_loss, "classifies": self._classifies, "images": self._images}
        return {"loss": self._loss.cpu(), "correct": self._correct.cpu()} | flags

    @staticmethod
    def merged(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Merge the states of processes that hold different modules into the state of a single process."""
        sums = {name: torch.stack([state[name] for state in states]).sum(0) for name in ("loss", "correct")}
        flags = {
            name: [any(flags) for flags in zip(*(state[name] for state in states), strict=True)]
            for name in ("has_loss", "classifies")
        }
        return sums | flags | {"images": states[0]["images"]}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned, without the sums of modules that other processes hold."""
        held = torch.tensor(self._held)
        self._loss.copy_(torch.where(held, state["loss"], 0.0))
        self._correct.copy_(torch.where(held, state["correct"], 0))
        self._has_loss, self._classifies = state["has_loss"], state["classifies"]
        self._images = state["images"]

    def finite(self) -> bool:
        """Whether all losses so far are finite; synchronises with the device."""
        return bool(self._loss.isfinite().all())

    def means(self, team: Team = ALONE) -> list[ModuleMeans]:
        """The means of each module over the images of all processes."""
        images = self._images * team.replicas
        loss = (team.sum(self._loss.clone()) / images).tolist()
        accuracy = (100 * team.sum(self._correct.clone()) / images).tolist()
        flags = torch.tensor([self._has_loss, self._classifies], dtype=torch.int64, device=self._loss.device)
        has_loss, classifies = team.sum(flags).tolist()
        return [
            ModuleMeans(x if trained else None, a if classified else None)
            for x, trained, a, classified in zip(loss, has_loss, accuracy, classifies, strict=True)
        ]


@dataclass(frozen=True)
class ModuleMeans:
    """A module's mean loss per image and the accuracy of its classifier in per cent; None if it has none."""

    loss: float | None
    accuracy: float | None


def train_step(
    network: Learner,
    optimizer: Optimizer,
    images: Any,
    targets: Any,
    forward: Autocast = nullcontext,
    team: Team = ALONE,
) -> Iterator[LocalLoss]:
    """Take one step on one batch; yield each module's loss after its backward pass, with its graph already freed.

    All modules are updated together, or with `optimizer.per_module` each as soon as this gives the same result. A
    non-finite loss masks all updates after it on the device, without a synchronisation. The step is complete when the
    iterator is exhausted.

    With several processes each takes its share of the batch. The gradients of a module are averaged as soon as the
    step no longer reads its weights, while the next modules run.
    """
    optimizer.zero_grad()
    losses_so_far: list[Tensor] = []
    updates = per_module(network) if optimizer.per_module or team.replicas > 1 else {}
    pending: deque[tuple[Update, Callable[[], Tensor]]] = deque()
    in_flight = 1 if team.replicas > 1 else 0  # averages that are communicated while other modules run
    found_nonfinite: Tensor | None = None

    def finish(count: int) -> None:
        nonlocal found_nonfinite
        for _ in range(count):
            update, wait = pending.popleft()
            found_nonfinite = wait()
            if optimizer.per_module:
                network.update_ema(update.momentum_layers)
                optimizer.step(update.parameters, found_nonfinite)
                optimizer.zero_grad(update.parameters)

    losses = network.local_losses(images, targets)
    while True:
        with forward():
            loss = next(losses, None)
        if loss is None:
            break
        loss.total.backward()
        losses_so_far.append(loss.total.detach())
        yield loss
        update = updates.get(loss.module)
        if update is not None:
            pending.append((update, begin_average(team, update.parameters, _any_nonfinite(losses_so_far))))
            finish(len(pending) - in_flight)
    finish(len(pending))
    if not optimizer.per_module:
        network.update_ema()
        optimizer.step(None, _any_nonfinite(losses_so_far) if found_nonfinite is None else found_nonfinite)
    average_statistics(team, network)


def _any_nonfinite(losses: list[Tensor]) -> Tensor:
    """A float scalar on the device: 1 if any of the losses is not finite, else 0."""
    return (~torch.stack(losses).isfinite().all()).float()


def counted_step(
    network: Learner,
    optimizer: Optimizer,
    totals: Totals,
    forward: Autocast = nullcontext,
    graphs: Graphs | None = None,
    team: Team = ALONE,
) -> Step:
    """A training step on a batch of normalised images and targets that adds its losses to `totals`.

    With `graphs` the step is recorded and replayed, and reads the optimizer's learning rate from the device.
    """

    def step(images: Any, targets: Any) -> None:
        totals.add(train_step(network, optimizer, images, targets, forward, team), len(targets))

    if graphs is None:
        return step
    optimizer.read_lr_from(network.device)
    return graphs.replayed(step)


def train_epoch(
    network: Learner,
    step: Step,
    batches: Iterable[tuple[Any, Any]],
    totals: Totals,
    around_step: Callable[[], AbstractContextManager] = nullcontext,
) -> None:
    """Take a step, made by `counted_step`, on every batch.

    If `around_step` raises on exit, the step is complete and counted.
    """
    network.train()
    for images, targets in batches:
        with around_step():
            step(images, targets)
            totals.batch(len(targets))


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy on test images, and accuracies in per cent.

    Attributes:
        top5_accuracy: share of images whose class is among the five highest outputs; None if not computed.
    """

    loss: float
    accuracy: float
    top5_accuracy: float | None = None

    @property
    def accuracies(self) -> dict[str, float]:
        """The accuracies by their names in metrics.csv."""
        top5 = {} if self.top5_accuracy is None else {"test_top5_accuracy": self.top5_accuracy}
        return {"test_accuracy": self.accuracy, **top5}


@torch.no_grad()
def evaluate(
    network: LocalNetwork,
    batches: Iterable[tuple[Tensor, Tensor]],
    forward: Autocast = nullcontext,
    top5: bool = False,
    team: Team = ALONE,
) -> Evaluation:
    """Evaluate the backbone, without auxiliary networks, on the batches of all processes."""
    network.eval()
    device = network.device
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    correct5 = torch.zeros((), dtype=torch.int64, device=device)
    images_seen = torch.zeros((), dtype=torch.int64, device=device)
    for images, targets in batches:
        with forward():
            logits = network(images)
        if not network.holds_output:
            continue
        loss += F.cross_entropy(logits.float(), targets, reduction="sum")
        correct += (logits.argmax(1) == targets).sum()
        if top5:
            correct5 += (logits.topk(min(5, logits.shape[1]), 1).indices == targets[:, None]).sum()
        images_seen += len(targets)
    for figure in (loss, correct, correct5, images_seen):
        team.sum(figure)
    count = int(images_seen)
    accuracy, top5_accuracy = 100 * int(correct) / count, 100 * int(correct5) / count
    return Evaluation(float(loss) / count, accuracy, top5_accuracy if top5 else None)
