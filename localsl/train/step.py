"""The training step, the epoch and the evaluation: the same for every rule, none of which is named here."""

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
    """What forward passes run in: nothing for fp32, bfloat16 autocast for bf16."""
    if precision == "fp32":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)


def training_forward(
    cfg: Execution, device: torch.device, watch: Callable[[Tensor], object] | None = None
) -> Autocast:
    """What the forward passes of a training step run in: autocast, and `memory=lean`.

    `watch` is told every tensor that is kept for the backward pass.
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
    """Per-module sums over an epoch, kept on the device: reading them is the epoch's only synchronisation."""

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
        """Begin another epoch, in place: a recorded step adds to these very tensors."""
        self._loss.zero_()
        self._correct.zero_()
        self._images = 0

    def add(self, losses: Iterable[LocalLoss], images: int) -> None:
        """Count a step's losses on a batch, whose graphs are freed one after another: all modules in one addition."""
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
        """Count a batch's images, once for all modules."""
        self._images += images

    def state(self) -> dict[str, Any]:
        """All of it, on the CPU, for `restore`."""
        has = {"has_loss": self._has_loss, "classifies": self._classifies, "images": self._images}
        return {"loss": self._loss.cpu(), "correct": self._correct.cpu()} | has

    @staticmethod
    def merged(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The state of one process, of those of several that hold some of the modules each."""
        sums = {name: torch.stack([state[name] for state in states]).sum(0) for name in ("loss", "correct")}
        flags = {
            name: [any(has) for has in zip(*(state[name] for state in states), strict=True)]
            for name in ("has_loss", "classifies")
        }
        return sums | flags | {"images": states[0]["images"]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; of modules that are held elsewhere nothing is taken."""
        held = torch.tensor(self._held)
        self._loss.copy_(torch.where(held, state["loss"], 0.0))
        self._correct.copy_(torch.where(held, state["correct"], 0))
        self._has_loss, self._classifies = state["has_loss"], state["classifies"]
        self._images = state["images"]

    def finite(self) -> bool:
        """Whether every loss so far was; reads the device."""
        return bool(self._loss.isfinite().all())

    def means(self, team: Team = ALONE) -> list[ModuleMeans]:
        """Of all processes' images and per module: mean loss per image where it has one, accuracy in per cent
        where it classifies.
        """
        images = self._images * team.replicas
        loss = (team.sum(self._loss.clone()) / images).tolist()
        accuracy = (100 * team.sum(self._correct.clone()) / images).tolist()
        has = torch.tensor([self._has_loss, self._classifies], dtype=torch.int64, device=self._loss.device)
        has_loss, classifies = team.sum(has).tolist()
        return [
            ModuleMeans(x if trained else None, a if known else None)
            for x, trained, a, known in zip(loss, has_loss, accuracy, classifies, strict=True)
        ]


@dataclass(frozen=True)
class ModuleMeans:
    """A module's mean loss per image and its classifier's accuracy in per cent, each if it has one."""

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
    """One step on one batch; yields each module's loss after its backward, the graph already freed.

    All modules are updated together, from losses of the old weights, or each as soon as that comes to the same
    (`optimizer.per_module`). A loss that is not finite keeps every update after it from being applied, without
    the device being asked. The step is complete only when the iterator is exhausted.

    Of several processes each has its part of the batch. Gradients are averaged between them while the modules
    that follow run, those of a module as soon as nothing reads its weights any more in the step.
    """
    optimizer.zero_grad()
    seen: list[Tensor] = []
    updates = per_module(network) if optimizer.per_module or team.replicas > 1 else {}
    begun: deque[tuple[Update, Callable[[], Tensor]]] = deque()
    ahead = 1 if team.replicas > 1 else 0  # modules whose averages are on their way while others are computed
    poisoned: Tensor | None = None

    def finish(count: int) -> None:
        nonlocal poisoned
        for _ in range(count):
            update, averaged = begun.popleft()
            poisoned = averaged()
            if optimizer.per_module:
                network.update_ema(update.momentum_layers)
                optimizer.step(update.parameters, poisoned)
                optimizer.zero_grad(update.parameters)

    losses = network.local_losses(images, targets)
    while True:
        with forward():
            loss = next(losses, None)
        if loss is None:
            break
        loss.total.backward()
        seen.append(loss.total.detach())
        yield loss
        update = updates.get(loss.module)
        if update is not None:
            begun.append((update, begin_average(team, update.parameters, _poisoned(seen))))
            finish(len(begun) - ahead)
    finish(len(begun))
    if not optimizer.per_module:
        network.update_ema()
        optimizer.step(None, _poisoned(seen) if poisoned is None else poisoned)
    average_statistics(team, network)


def _poisoned(losses: list[Tensor]) -> Tensor:
    """1 if any of them is not finite, else 0: a scalar left on the device."""
    return (~torch.stack(losses).isfinite().all()).float()


def counted_step(
    network: Learner,
    optimizer: Optimizer,
    totals: Totals,
    forward: Autocast = nullcontext,
    graphs: Graphs | None = None,
    team: Team = ALONE,
) -> Step:
    """A training step on normalised images and targets that is added up in `totals`.

    With `graphs` it is recorded, and replayed with the optimizer's learning rate of the day.
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
    """One pass of `counted_step` over batches.

    `around_step` may raise at its end: the step is then complete, and counted.
    """
    network.train()
    for images, targets in batches:
        with around_step():
            step(images, targets)
            totals.batch(len(targets))


@dataclass(frozen=True)
class Evaluation:
    """What a network does on test images: mean cross-entropy, and accuracies in per cent.

    Attributes:
        top5_accuracy: how often the class is among the five likeliest; None if not asked for.
    """

    loss: float
    accuracy: float
    top5_accuracy: float | None = None

    @property
    def accuracies(self) -> dict[str, float]:
        """By their names in metrics.csv."""
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
    """Figures of the plain backbone, over all processes' batches; no auxiliary network runs."""
    network.eval()
    device = network.device
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    among = torch.zeros((), dtype=torch.int64, device=device)
    images_seen = torch.zeros((), dtype=torch.int64, device=device)
    for images, targets in batches:
        with forward():
            logits = network(images)
        if not network.holds_output:
            continue
        loss += F.cross_entropy(logits.float(), targets, reduction="sum")
        correct += (logits.argmax(1) == targets).sum()
        if top5:
            among += (logits.topk(min(5, logits.shape[1]), 1).indices == targets[:, None]).sum()
        images_seen += len(targets)
    for figure in (loss, correct, among, images_seen):
        team.sum(figure)
    count = int(images_seen)
    accuracy, within = 100 * int(correct) / count, 100 * int(among) / count
    return Evaluation(float(loss) / count, accuracy, within if top5 else None)
