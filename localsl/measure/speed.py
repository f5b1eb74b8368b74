"""Timing training steps of a rule against backpropagation.

The two alternate in one process, so that other load on the machine slows both and hardly changes their ratio.
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

SECONDS = 10.0  # of timed steps, including those of backpropagation
TURNS = 5  # the minimum number of turns

# Steps of a turn. On a GPU there are several, so that the CPU runs ahead of the GPU, as in training.
TURN = {"cpu": 1, "cuda": 10}
# Steps before timing, in which kernels are chosen, momentum is created and code is compiled.
WARM_UP = {"cpu": 3, "cuda": 10}
STREAMED = 4  # the maximum number of batches of noise for a data set that is not held in memory


class Clock:
    """Measures time by CUDA events, or on a CPU by its clock."""

    def __init__(self, device: torch.device):
        self._device = device
        self._marks: list[float] = []
        self._events: list[torch.cuda.Event] = []

    def mark(self) -> None:
        """Mark the present time; on a GPU, the time at which it reaches this point of its work."""
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
    """A network that is trained a few steps at a time, by the training loop of a run."""

    def __init__(self, cfg: Config, batches: TrainBatches, device: torch.device):
        self._network = build_network(cfg)
        devices.place(self._network, cfg, device)
        optimizer = optim.build(self._network.parameters(), cfg.optimizer)
        optimizer.lr = 1e-6  # at the learning rate of a run the loss may overflow, since noise cannot be learnt
        self._batches = chain.from_iterable(batches.epoch(cfg.seed, epoch) for epoch in count(1))
        self._totals, forward = Totals(self._network), training_forward(cfg, device)
        self._step = counted_step(self._network, optimizer, self._totals, forward, devices.graphs(cfg))
        self._device = device

    def steps(self, number: int) -> list[float]:
        """Take `number` steps; return the milliseconds of each."""
        clock = Clock(self._device)
        train_epoch(self._network, self._step, self._marked(number, clock), self._totals)
        return clock.laps()

    def compilations(self) -> dict[str, float]:
        """The number of compiled graphs and the seconds this took; empty if nothing is compiled."""
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
        steps: the steps of the rule.
        bp: the steps of backpropagation that alternate with them.
        warm_up: the rule's steps before timing.
        ratio: the rule's time relative to backpropagation's, the median over turns.
        compiled: graphs and seconds compiled in the rule's warm-up; empty if nothing is compiled.
    """

    steps: list[float]
    bp: list[float]
    warm_up: list[float]
    ratio: float
    compiled: dict[str, float]


def speed(cfg: Config) -> Speed:
    """Time a rule and backpropagation alternately, in one process, on noise of the data set's size.

    The ratio that backpropagation has to a copy of itself shows the noise of the machine.
    """
    cfg, device = replace(cfg, processes=1), devices.chosen(cfg.device)
    devices.prepare(device, cfg.deterministic, cfg.tf32)
    batches = TrainBatches(noise(cfg), cfg.dataset, cfg.batch_size, device, devices.layout(cfg))
    rule, reference = Trained(cfg, batches, device), Trained(backpropagation(cfg), batches, device)
    warm_up = rule.steps(WARM_UP[device.type])
    compiled = rule.compilations()
    reference.steps(WARM_UP[device.type])
    steps, bp_steps, ratios = [], [], []
    began = time.perf_counter()
    while len(ratios) < TURNS or time.perf_counter() - began < SECONDS:
        turn, bp_turn = rule.steps(TURN[device.type]), reference.steps(TURN[device.type])
        ratios.append(sum(turn) / sum(bp_turn))
        steps += turn
        bp_steps += bp_turn
    return Speed(steps, bp_steps, warm_up, quartiles(ratios)[1], compiled)


def timed(rule: Trained, device: torch.device, seconds: float) -> list[float]:
    """Milliseconds of a rule's steps without backpropagation in between, for at least two turns and `seconds`."""
    steps: list[float] = []
    began = time.perf_counter()
    while len(steps) < 2 * TURN[device.type] or time.perf_counter() - began < seconds:
        steps += rule.steps(TURN[device.type])
    return steps


def backpropagation(cfg: Config) -> Config:
    """The configuration of backpropagation with the same network, data and optimizer.

    Its single module ignores `aux` and `ema`.
    """
    return replace(cfg, method=OwnSettings(name="bp", rule="bp"))


def noise(cfg: Config) -> Split:
    """Random images and classes for as many full batches as the data set has, and at least one.

    For a data set that is not held in memory there are at most `STREAMED` batches.
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
    """The first quartile, the median and the third quartile."""
    return torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
