"""Runs whose processes each train some of the modules (parallel=modules): stages, batches and merged state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from localsl.config.building import module_operations
from localsl.core import objectives
from localsl.core.learner import Learner
from localsl.core.network import LocalNetwork
from localsl.core.settings import ConfigError, Problem
from localsl.execution import balance, devices, handover, pipeline
from localsl.execution.balance import Balance
from localsl.execution.pipeline import Stage
from localsl.runs.checkpoint import on_cpu
from localsl.train.step import Totals, autocast, training_forward
from localsl.train.task import Batches, Task, TestBatches, TrainingBatches

if TYPE_CHECKING:
    from localsl.config.schema import Config
    from localsl.execution.processes import Team
    from localsl.train.optim import Optimizer

BatchIterator = Iterator[tuple[Tensor, Tensor]]


def balance_of(cfg: Config, network: LocalNetwork) -> Balance:
    """Distribute modules over `cfg.processes` processes, by times on the network's device or by operations."""
    if cfg.parallel.balance == "measured":
        images, targets = example(cfg, network.device, cfg.batch_size)
        turns = balance.measured(network, images, targets, training_forward(cfg, network.device))
        costs = [turn.total for turn in turns]
    else:
        costs = module_operations(cfg)
    cuts = objectives.open_cuts([module.objective for module in network.local_modules])
    return balance.balanced(costs, cfg.processes or 1, cuts)


def staged(cfg: Config, task: Task, team: Team) -> Stage:
    """Create this process's stage; the task's network keeps only the modules of this stage."""
    network = task.network
    assert isinstance(network, LocalNetwork)
    found = team.broadcast(lambda: balance_of(cfg, network))
    print("\n".join(stage_lines(found)), flush=True)
    stages = found.stages
    reason = pipeline.inexact(network, stages)
    if reason:
        raise ConfigError([Problem("parallel", "modules", reason, "type parallel=data, or leave dropout out")])
    images, _ = example(cfg, network.device, 2)
    boundaries = handover.boundaries(network, images, autocast(cfg.precision, network.device))
    return Stage(network, stages, team, boundaries)


def example(cfg: Config, device: torch.device, images: int) -> tuple[Tensor, Tensor]:
    """Random images and targets with the shape and memory layout of a training batch."""
    size, random = cfg.dataset.image_size, torch.Generator().manual_seed(0)
    pixels = torch.randn(images, 3, size, size, generator=random)
    targets = torch.randint(cfg.dataset.num_classes, (images,), generator=random)
    return pixels.to(device, memory_format=devices.layout(cfg)), targets.to(device)


class StagedEpochs:
    """The training batches of a stage: made by the first process, and received by the others."""

    def __init__(self, stage: Stage, own: TrainingBatches | None, images: int, batch_size: int):
        self._stage, self._own, self._sizes = stage, own, _sizes(images, batch_size)

    def __len__(self) -> int:
        return len(self._sizes)

    def epoch(self, seed: int, epoch: int, skip: int = 0) -> BatchIterator:
        """The batches of an epoch, without the first `skip`."""
        if self._own is None:
            return self._stage.received(self._sizes[skip:])
        return self._stage.passed(self._own.epoch(seed, epoch, skip))

    def close(self) -> None:
        """Free the resources that make the batches."""
        if self._own is not None:
            self._own.close()


class StagedTests:
    """The test batches of a stage: made by the first process, and received by the others."""

    def __init__(self, stage: Stage, own: TestBatches | None, images: int, batch_size: int):
        self._stage, self._own, self._sizes = stage, own, _sizes(images, batch_size)

    def __iter__(self) -> BatchIterator:
        return self._stage.received(self._sizes) if self._own is None else self._stage.passed(iter(self._own))

    def close(self) -> None:
        """Free the resources that make the batches."""
        if self._own is not None:
            self._own.close()


def batches(cfg: Config, task: Task, device: torch.device, team: Team, stage: Stage | None) -> Batches:
    """The batches of this process, which stages behind the first receive from the stage before."""
    own = None
    if stage is None or team.leader:
        own = task.batches(device, devices.layout(cfg), team.part)
        if stage is None:
            return own
    counts, size = task.images, cfg.batch_size
    validation = None
    if "validation" in counts:
        validation = StagedTests(stage, own and own.validation, counts["validation"], size)
    return Batches(
        StagedEpochs(stage, own and own.train, counts["train"], size),
        StagedTests(stage, own and own.test, counts["test"], size),
        validation,
    )


def _sizes(images: int, batch_size: int) -> list[int]:
    return [min(batch_size, images - begin) for begin in range(0, images, batch_size)]


def collected(
    network: Learner, optimizer: Optimizer, stage: Stage, own: dict[str, Any], team: Team
) -> dict[str, Any]:
    """Merge the states of all processes to that of a single process, on the leader; {} on the others.

    Args:
        own: the totals and random state of this process.
    """
    state = {"network": network.held_state(), "optimizer": optimizer.state_dict(), "own": own}
    state |= {"positions": stage.positions(), "draws": stage.draws}
    states = team.collect(on_cpu(state))
    if not states:
        return {}
    by_position = {
        position: value
        for state in states
        for position, value in zip(state["positions"], state["optimizer"], strict=True)
    }
    owns = [state["own"] for state in states]
    # If a layer inside a module draws random numbers, only its process knows how many: its random state is kept.
    random = next((own for state, own in zip(states, owns, strict=True) if state["draws"]), owns[0])
    merged = {name: value for state in states for name, value in state["network"].items()}
    return {
        "network": {name: merged[name] for name in network.state_dict()},
        "optimizer": [by_position[position] for position in range(len(by_position))],
        "processes": [random | {"totals": Totals.merged([own["totals"] for own in owns])}],
    }


def described(cfg: Config, network: LocalNetwork) -> str:
    """Lines that say which process trains which modules; empty unless modules are distributed."""
    if cfg.parallel.name != "modules" or (cfg.processes or 1) == 1:
        return ""
    device = devices.chosen(cfg.device)
    devices.prepare(device, cfg.deterministic, cfg.tf32)
    devices.use_threads(cfg)
    devices.place(network, cfg, device)
    return "\n".join(["", *stage_lines(balance_of(cfg, network))])


def stage_lines(found: Balance) -> Sequence[str]:
    """Lines that state which process trains which modules, and the largest possible speedup."""
    lines = [
        f"process {rank}: modules {stage.start} to {stage.stop - 1}, {100 * share:.1f} % of the work"
        for rank, (stage, share) in enumerate(zip(found.stages, found.shares, strict=True))
    ]
    expected = f"at most {found.limit:.2f} times as fast as one process, limited by the process with most work"
    return [*lines, expected]
