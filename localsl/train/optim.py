"""Optimizers and learning rate schedules."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from localsl.core.settings import Affects, ascending, number, one_of, ruled


@dataclass(kw_only=True)
class OptimizerSettings:
    """How gradients become updates (conf/optimizer)."""

    name: str = ruled(one_of("sgd", "adam", "adamw"))
    lr: float = ruled(
        number(above=0, instead="the papers' is 0.8 for batches of 1024, 0.1 for 128"), affects=Affects.NUMBERS
    )
    momentum: float = ruled(number(0, below=1))
    beta2: float = ruled(number(0, below=1), affects=Affects.NUMBERS, default=0.0)
    nesterov: bool = ruled(affects=Affects.NUMBERS)
    weight_decay: float = ruled(number(0), affects=Affects.NUMBERS)
    per_module: bool = ruled(affects=Affects.COST, default=False)


@dataclass(kw_only=True)
class ScheduleSettings:
    """Epochs and learning rate (conf/schedule)."""

    name: str = ruled(affects=Affects.NOTHING)
    epochs: int = ruled(number(1, at_most=10**6))
    warmup_epochs: int = ruled(number(0))
    warmup_lr: float = ruled(number(0))
    milestones: list[int] = ruled(ascending(), default_factory=list)
    decay: float = ruled(number(above=0, at_most=1), default=1.0)
    zero_based: bool = False
    warmup_steps: int = ruled(number(0, at_most=10**9), default=0)


class Optimizer(ABC):
    """An optimizer of all trainable parameters, with weight decay on each, by torch's fused kernels.

    It calls the functions behind torch's optimizers. Constructing their classes would import the compiler, which
    takes about as long as importing torch.

    Attributes:
        parameters: the parameters that it updates.
        state: the running averages of each parameter that has had a gradient, under torch's names.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: OptimizerSettings):
        self.parameters = [p for p in parameters if p.requires_grad]
        self._lr: float | Tensor = settings.lr
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        self._settings = settings

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self._lr)

    @lr.setter
    def lr(self, value: float) -> None:
        if isinstance(self._lr, Tensor):
            self._lr.fill_(value)
        else:
            self._lr = value

    def read_lr_from(self, device: torch.device) -> None:
        """Keep the learning rate on the device in float32, so that a recorded step reads its current value."""
        self._lr = torch.tensor(self._lr, dtype=torch.float32, device=device)

    @property
    def per_module(self) -> bool:
        """Whether to update each module as soon as the step no longer reads its weights."""
        return self._settings.per_module

    def zero_grad(self, parameters: Iterable[nn.Parameter] | None = None) -> None:
        """Free the gradients of the given parameters, or of all."""
        for parameter in self.parameters if parameters is None else parameters:
            parameter.grad = None

    def state_dict(self) -> list[dict[str, Tensor]]:
        """The state of every parameter in order, empty for a parameter that has had no gradient."""
        return [self.state.get(parameter, {}) for parameter in self.parameters]

    def load_state_dict(self, states: list[dict[str, Tensor]]) -> None:
        """Restore the state that `state_dict` returned."""
        for parameter, state in zip(self.parameters, states, strict=True):
            if state:
                initial = self._initial_state(parameter)
                self.state[parameter] = {name: initial[name].copy_(value) for name, value in state.items()}

    @torch.no_grad()
    def step(
        self, parameters: Iterable[nn.Parameter] | None = None, found_nonfinite: Tensor | None = None
    ) -> None:
        """Update the parameters that have a gradient.

        Args:
            parameters: those to consider; None for all.
            found_nonfinite: float scalar on the device; if it is 1, neither parameters nor state change.
        """
        candidates = self.parameters if parameters is None else parameters
        updated = [p for p in candidates if p.grad is not None]
        for parameter in updated:
            if parameter not in self.state:
                self.state[parameter] = self._initial_state(parameter)
        grads = [cast("Tensor", p.grad) for p in updated]
        states = [self.state[p] for p in updated]
        self._update(cast("list[Tensor]", updated), grads, states, found_nonfinite)

    @abstractmethod
    def _initial_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The state of a parameter before its first update."""

    @abstractmethod
    def _update(
        self,
        parameters: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Tensor]],
        found_nonfinite: Tensor | None,
    ) -> None:
        """Update the parameters and their states in place."""


class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    def _initial_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        if not self._settings.momentum:
            return {}
        # Zeros give the same first step as torch's buffer, a copy of the first gradient.
        return {"momentum_buffer": torch.zeros_like(parameter)}

    def _update(
        self,
        parameters: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Tensor]],
        found_nonfinite: Tensor | None,
    ) -> None:
        sgd(
            parameters,
            grads,
            [state.get("momentum_buffer") for state in states],
            fused=True,
            lr=self._lr,
            momentum=self._settings.momentum,
            nesterov=self._settings.nesterov,
            weight_decay=self._settings.weight_decay,
            dampening=0,
            maximize=False,
            found_inf=found_nonfinite,
        )


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015); `momentum` is its beta1."""

    decoupled = False  # whether weight decay is decoupled from the gradient

    def _initial_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        averages = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros((), device=parameter.device), **averages}

    def _update(
        self,
        parameters: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Tensor]],
        found_nonfinite: Tensor | None,
    ) -> None:
        adam(
            parameters,
            grads,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            lr=self._lr,
            beta1=self._settings.momentum,
            beta2=self._settings.beta2,
            weight_decay=self._settings.weight_decay,
            decoupled_weight_decay=self.decoupled,
            eps=1e-8,
            maximize=False,
            found_inf=found_nonfinite,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    decoupled = True


KINDS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def build(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> Optimizer:
    """Build the optimizer of a configuration over the parameters that require gradients."""
    return KINDS[settings.name](parameters, settings)


def learning_rate(epoch: int, lr: float, schedule: ScheduleSettings) -> float:
    """The learning rate of `epoch`, counted from 1: a warm-up from `warmup_lr`, then a cosine or steps.

    With E epochs, W of them warm-up, the cosine is cos(e) = lr (1 + cos(pi e / E)) / 2, and for e <= W the rate is
    cos(e) (e - 1) / W + warmup_lr (W + 1 - e) / W. The released code of AugLocal, MAN and MLAAN has W = 10; no paper
    mentions the warm-up. `zero_based` means cos(e - 1), which begins at lr and ends above 0, as in the same code for
    ImageNet, where W = 0. With `milestones`, lr is multiplied by `decay` after each of these epochs, in place of the
    cosine.
    """
    if schedule.milestones:
        base = lr * schedule.decay ** sum(epoch > milestone for milestone in schedule.milestones)
    else:
        e = epoch - schedule.zero_based
        base = 0.5 * lr * (1 + math.cos(math.pi * e / schedule.epochs))
    warmup = schedule.warmup_epochs
    if epoch > warmup:
        return base
    start = min(schedule.warmup_lr, lr)  # the released 0.01 is above Adam's learning rate
    return (base * (epoch - 1) + start * (warmup + 1 - epoch)) / warmup


WARMUP_FACTOR = 1e-3  # the factor on the learning rate at the first step


def warmup_factor(step: int, steps: int) -> float:
    """The factor on the learning rate at a run's step (from 0): linear over the first `steps`, then 1.

    This is the warm-up of torchvision's detection reference.
    """
    return 1.0 if step >= steps else WARMUP_FACTOR + (1 - WARMUP_FACTOR) * step / steps
