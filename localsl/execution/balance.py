"""Assigns consecutive modules to processes so that the busiest process has as little work as possible."""

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

# Steps of a measurement: those in which kernels are chosen, and those that count.
WARM_UP, TIMED = 2, 5


@dataclass(kw_only=True)
class ParallelSettings:
    """How the processes of a run share its work (conf/parallel).

    Attributes:
        name: what is divided among processes: the `data` of every batch, or the `modules`.
        balance: the cost that modules are balanced by: counted `operations`, or times `measured` at the start.
        bandwidth: of the connection between two devices in 10^9 bytes a second; only `measure=pipeline` uses it.
    """

    name: str = ruled(one_of("data", "modules"), default="data")
    balance: str = ruled(one_of("operations", "measured"), default="operations")
    bandwidth: float = ruled(number(above=0), default=25.0)


@dataclass(frozen=True)
class Balance:
    """Modules by process, and what they cost.

    Attributes:
        stages: the modules of each process.
        costs: of each module, in any unit.
    """

    stages: list[range]
    costs: list[float]

    @property
    def shares(self) -> list[float]:
        """Of all work, each process's; they add up to 1."""
        return [sum(self.costs[i] for i in stage) / sum(self.costs) for stage in self.stages]

    @property
    def limit(self) -> float:
        """The largest possible speed-up over one process, which the busiest process sets."""
        return 1 / max(self.shares)


def balanced(costs: Sequence[float], processes: int, cuts: Sequence[int]) -> Balance:
    """Consecutive modules for each process, the largest sum of costs as small as can be.

    Args:
        costs: of each module.
        cuts: the modules that a process may begin with, 0 apart; at least `processes - 1`.
    """
    upto = [0.0, *accumulate(costs)]
    bounds = [0, *cuts, len(costs)]
    # best[b]: the largest cost, and the bounds, of the modules before bounds[b] shared among so many processes.
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [0])}
    for _ in range(processes):
        shared = {}
        for end in range(1, len(bounds)):
            options = [
                (max(worst, upto[bounds[end]] - upto[bounds[begin]]), [*taken, bounds[end]])
                for begin, (worst, taken) in best.items()
                if begin < end
            ]
            if options:
                shared[end] = min(options)
        best = shared
    _, taken = best[len(bounds) - 1]
    return Balance([range(begin, end) for begin, end in pairwise(taken)], list(costs))


@dataclass(frozen=True)
class Turn:
    """Seconds of a module's turn in a training step: its forward with its losses, and its backward."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Of both."""
        return self.forward + self.backward


def measured(
    network: LocalNetwork,
    images: Tensor,
    targets: Tensor,
    forward: Callable[[], AbstractContextManager],
) -> list[Turn]:
    """Each module's turn in a training step, the median of a few.

    The network is left as it is, and so are torch's random numbers.
    """
    device, steps = images.device, []
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        trial = copy.deepcopy(network).train()
        for _ in range(WARM_UP + TIMED):
            turns: dict[int, tuple[float, float]] = {}
            losses, marks = trial.local_losses(images, targets), [now(device)]
            while True:
                with forward():
                    loss = next(losses, None)
                if loss is None:
                    break
                marks.append(now(device))
                loss.total.backward()
                marks.append(now(device))
                # A module without a loss runs in the turn of the next that has one.
                begun = len(turns)
                shares = [(b - a) / (loss.module + 1 - begun) for a, b in pairwise(marks[-3:])]
                turns |= dict.fromkeys(range(begun, loss.module + 1), (shares[0], shares[1]))
                del loss
            trial.zero_grad()
            steps.append([turns[module] for module in range(len(turns))])
    return [
        Turn(median(f for f, _ in turn), median(b for _, b in turn))
        for turn in zip(*steps[WARM_UP:], strict=True)
    ]


def now(device: torch.device) -> float:
    """The clock's seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
