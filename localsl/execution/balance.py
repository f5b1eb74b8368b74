"""Assigning consecutive modules to processes so that the busiest process has as little work as possible."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median

import torch
from torch import Tensor

from localsl.core.network import LocalNetwork
from localsl.core.settings import number, one_of, ruled

# Steps of a measurement: the first ones, in which kernels are chosen, are not counted.
WARM_UP, TIMED = 2, 5


@dataclass(kw_only=True)
class ParallelSettings:
    """How the processes of a run share its work (conf/parallel).

    Attributes:
        name: what is divided among processes: the `data` of every batch, or the `modules`.
        balance: the cost that modules are balanced by: counted `operations`, or times `measured` at the start.
        bandwidth: bandwidth between two devices, in 10^9 bytes per second; only `measure=pipeline` uses it.
    """

    name: str = ruled(one_of("data", "modules"), default="data")
    balance: str = ruled(one_of("operations", "measured"), default="operations")
    bandwidth: float = ruled(number(above=0), default=25.0)


@dataclass(frozen=True)
class Balance:
    """An assignment of modules to processes.

    Attributes:
        stages: the modules of each process.
        costs: the cost of each module, in any unit.
    """

    stages: list[range]
    costs: list[float]

    @property
    def shares(self) -> list[float]:
        """The fraction of all work that each process does."""
        return [sum(self.costs[i] for i in stage) / sum(self.costs) for stage in self.stages]

    @property
    def limit(self) -> float:
        """The largest possible speed-up over one process, which the busiest process limits."""
        return 1 / max(self.shares)


def balanced(costs: Sequence[float], processes: int, cuts: Sequence[int]) -> Balance:
    """Assign consecutive modules to each process so that the largest sum of costs is minimal.

    Args:
        costs: the cost of each module.
        processes: the number of processes.
        cuts: the modules that a process may begin with, without 0; at least `processes - 1`.
    """
    cumulative = [0.0, *accumulate(costs)]
    bounds = [0, *cuts, len(costs)]
    # Dynamic programming over the number of processes. For modules before bounds[b], best[b] is the smallest possible
    # largest cost, and the boundaries between processes that achieve it.
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [0])}
    for _ in range(processes):
        extended = {}
        for end in range(1, len(bounds)):
            options = [
                (max(largest, cumulative[bounds[end]] - cumulative[bounds[begin]]), [*chosen, bounds[end]])
                for begin, (largest, chosen) in best.items()
                if begin < end
            ]
            if options:
                extended[end] = min(options)
        best = extended
    _, chosen = best[len(bounds) - 1]
    return Balance([range(begin, end) for begin, end in pairwise(chosen)], list(costs))


@dataclass(frozen=True)
class Turn:
    """Seconds that a module takes in a training step: its forward pass with its losses, and its backward pass."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Seconds of both passes."""
        return self.forward + self.backward


def measured(
    network: LocalNetwork,
    images: Tensor,
    targets: Tensor,
    forward: Callable[[], AbstractContextManager],
) -> list[Turn]:
    """The times of each module in a training step, the medians over a few steps.

    The network and the state of torch's random generators do not change.
    """
    device, steps = images.device, []
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        trial = copy.deepcopy(network).train()
        for _ in range(WARM_UP + TIMED):
            turns: dict[int, tuple[float, float]] = {}
            losses, marks = trial.local_losses(images, targets), [synchronised_time(device)]
            while True:
                with forward():
                    loss = next(losses, None)
                if loss is None:
                    break
                marks.append(synchronised_time(device))
                loss.total.backward()
                marks.append(synchronised_time(device))
                # Modules without a loss run with the next one that has a loss, so they share its time equally.
                first = len(turns)
                shares = [(b - a) / (loss.module + 1 - first) for a, b in pairwise(marks[-3:])]
                turns |= dict.fromkeys(range(first, loss.module + 1), (shares[0], shares[1]))
                del loss
            trial.zero_grad()
            steps.append([turns[module] for module in range(len(turns))])
    return [
        Turn(median(f for f, _ in turn), median(b for _, b in turn))
        for turn in zip(*steps[WARM_UP:], strict=True)
    ]


def synchronised_time(device: torch.device) -> float:
    """The time in seconds after the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
