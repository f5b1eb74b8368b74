"""How long a training step takes, beside one of backpropagation in the same run.

The two take turns, so that whatever else the machine does slows both, and their ratio least.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, islice

import torch
from torch import Tensor

from localsl.config.building import build_network
from localsl.config.schema import Config, OwnSettings
from localsl.data import sources
from localsl.data.batches import TrainBatches
from localsl.data.splits import Split
from localsl.execution import devices
from localsl.execution.compiled import Compiled
from localsl.train import optim
from localsl.train.step import Totals, counted_step, train_epoch, training_forward

SCOPE = "from asking for one batch to asking for the next: augmentation on the device, forward and backward of "
SCOPE += "every module, momentum layers, update and running totals; without loading, evaluation and records"

SECONDS = 10.0  # that steps are timed for, those of backpropagation included
TURNS = 5  # at least

# Steps before it is the other's turn. On a GPU several, since there the CPU runs ahead of it, as in training.
TURN = {"cpu": 1, "cuda": 10}
# Steps in which kernels are chosen, momentum is made, code is compiled.
WARM_UP = {"cpu": 3, "cuda": 10}
STREAMED = 4  # batches of noise that stand for a data set which is decoded from disk


class Clock:
    """Marks in time: CUDA events, or the processor's clock."""

    def __init__(self, device: torch.device):
        self._device = device
        self._marks: list[float] = []
        self._events: list[torch.cuda.Event] = []

    def mark(self) -> None:
        """Now, in the order of the device's work."""
        if self._device.type == "cuda":
            self._events.append(torch.cuda.Event(enable_timing=True))
            self._events[-1].record(torch.cuda.current_stream(self._device))
        else:
            self._marks.append(time.perf_counter())

    def laps(self) -> list[float]:
        """Milliseconds from each mark to the next; waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return [a.elapsed_time(b) for a, b in zip(self._events, self._events[1:], strict=False)]
        return [(b - a) * 1e3 for a, b in zip(self._marks, self._marks[1:], strict=False)]


class Trained:
    """What a configuration trains, a few steps at a time, by the epoch's own loop."""

    def __init__(self, cfg: Config, batches: TrainBatches, device: torch.device):
        self._network = build_network(cfg)
        devices.place(self._network, cfg, device)
        optimizer = optim.build(self._network.parameters(), cfg.optimizer)
        optimizer.lr = 1e-6  # noise cannot be learnt: at a run's own rate its loss may overflow
        self._batches = chain.from_iterable(batches.epoch(cfg.seed, epoch) for epoch in count(1))
        self._totals, forward = Totals(self._network), training_forward(cfg, device)
        self._step = counted_step(self._network, optimizer, self._totals, forward, devices.graphs(cfg))
        self._device = device

    def steps(self, number: int) -> list[float]:
        """Take so many; milliseconds of each."""
        clock = Clock(self._device)
        train_epoch(self._network, self._step, self._marked(number, clock), self._totals)
        return clock.laps()

    def compilations(self) -> dict[str, float]:
        """What it compiled so far."""
        compiled = self._network.path_losses
        return compiled.compilations() if isinstance(compiled, Compiled) else {}

    def _marked(self, number: int, clock: Clock) -> Iterator[tuple[Tensor, Tensor]]:
        clock.mark()
        for batch in islice(self._batches, number):
            yield batch
            clock.mark()


@dataclass(frozen=True)
class Speed:
    """Milliseconds of training steps on one device.

    Attributes:
        steps: of the rule.
        bp: of backpropagation, in between.
        warm_up: of the rule's steps before them.
        ratio: of the rule's time to backpropagation's, the median over turns.
        compiled: graphs and seconds in the rule's warm-up; empty if nothing is compiled.
    """

    steps: list[float]
    bp: list[float]
    warm_up: list[float]
    ratio: float
    compiled: dict[str, float]


def speed(cfg: Config) -> Speed:
    """Train on noise, as much as the data set has of images, a rule and backpropagation in turn; one process.

    The ratio of backpropagation, to a copy of itself, tells how much the machine leaves to chance.
    """
    cfg, device = replace(cfg, processes=1), devices.chosen(cfg.device)
    devices.prepare(device, cfg.deterministic, cfg.tf32)
    batches = TrainBatches(noise(cfg), cfg.dataset, cfg.batch_size, device, devices.layout(cfg))
    rule, reference = Trained(cfg, batches, device), Trained(backpropagation(cfg), batches, device)
    warm_up = rule.steps(WARM_UP[device.type])
    compiled = rule.compilations()
    reference.steps(WARM_UP[device.type])
    steps, others, ratios = [], [], []
    began = time.perf_counter()
    while len(ratios) < TURNS or time.perf_counter() - began < SECONDS:
        ours, theirs = rule.steps(TURN[device.type]), reference.steps(TURN[device.type])
        ratios.append(sum(ours) / sum(theirs))
        steps += ours
        others += theirs
    return Speed(steps, others, warm_up, quartiles(ratios)[1], compiled)


def timed(rule: Trained, device: torch.device, seconds: float) -> list[float]:
    """Milliseconds of a rule's steps alone, for at least two turns and so many seconds."""
    steps: list[float] = []
    began = time.perf_counter()
    while len(steps) < 2 * TURN[device.type] or time.perf_counter() - began < seconds:
        steps += rule.steps(TURN[device.type])
    return steps


def backpropagation(cfg: Config) -> Config:
    """The same network, data and optimizer, trained end to end; one module asks nothing of `aux` and `ema`."""
    return replace(cfg, method=OwnSettings(name="bp", rule="bp"))


def noise(cfg: Config) -> Split:
    """Random images and classes in whole batches, at least one, of no more images than the data set's; a few of
    a data set that is not held in memory.
    """
    batches = max(1, sources.training_images(cfg.dataset) // cfg.batch_size)
    images = (min(batches, STREAMED) if cfg.dataset.crop == "resized" else batches) * cfg.batch_size
    shape, random = (
        (images, 3, cfg.dataset.image_size, cfg.dataset.image_size),
        torch.Generator().manual_seed(0),
    )
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
    return Split(pixels, torch.randint(0, cfg.dataset.num_classes, (images,), generator=random))


def quartiles(values: list[float]) -> list[float]:
    """The first quartile, the median and the third."""
    return torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
