"""The optimizer and the learning rate of each epoch."""

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
    beta2: float = ruled(number(0, below=1), default=0.0)
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
    """All trainable parameters, weight decay on every one of them, updated by torch's fused kernels.

    The arithmetic is torch's own functions. Its classes are not used because constructing one imports the
    compiler, which takes about as long as importing torch does.

    Attributes:
        parameters: what it updates.
        state: by parameter, its running averages by torch's names, from its first gradient on.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: OptimizerSettings):
        self.parameters = [p for p in parameters if p.requires_grad]
        self._lr: float | Tensor = settings.lr
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        self._settings = settings

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self._lr)

    @lr.setter
    def lr(self, value: float) -> None:
        if isinstance(self._lr, Tensor):
            self._lr.fill_(value)
        else:
            self._lr = value

    def read_lr_from(self, device: torch.device) -> None:
        """Keep the learning rate on the device, in float32: a recorded step then sees every new one."""
        self._lr = torch.tensor(self._lr, dtype=torch.float32, device=device)

    @property
    def per_module(self) -> bool:
        """Whether a module is to be updated as soon as its weights are no longer read in the step."""
        return self._settings.per_module

    def zero_grad(self, parameters: Iterable[nn.Parameter] | None = None) -> None:
        """Let go of the gradients, of these or of all parameters."""
        for parameter in self.parameters if parameters is None else parameters:
            parameter.grad = None

    def state_dict(self) -> list[dict[str, Tensor]]:
        """The state of every parameter, in order; empty for one without a gradient so far."""
        return [self.state.get(parameter, {}) for parameter in self.parameters]

    def load_state_dict(self, states: list[dict[str, Tensor]]) -> None:
        """Go on from what `state_dict` returned."""
        for parameter, state in zip(self.parameters, states, strict=True):
            if state:
                fresh = self._fresh(parameter)
                self.state[parameter] = {name: fresh[name].copy_(value) for name, value in state.items()}

    @torch.no_grad()
    def step(self, parameters: Iterable[nn.Parameter] | None = None, poisoned: Tensor | None = None) -> None:
        """Update every parameter that has a gradient, of these or of all.

        Args:
            parameters: these; None for all.
            poisoned: float scalar on the device; at 1 nothing is changed, neither parameters nor state.
        """
        among = self.parameters if parameters is None else parameters
        stepped = [p for p in among if p.grad is not None]
        for parameter in stepped:
            if parameter not in self.state:
                self.state[parameter] = self._fresh(parameter)
        grads = [cast("Tensor", p.grad) for p in stepped]
        states = [self.state[p] for p in stepped]
        self._update(cast("list[Tensor]", stepped), grads, states, poisoned)

    @abstractmethod
    def _fresh(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The state of a parameter that was never updated."""

    @abstractmethod
    def _update(
        self,
        parameters: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Tensor]],
        poisoned: Tensor | None,
    ) -> None:
        """Change the parameters and their states in place."""


class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    def _fresh(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        if not self._settings.momentum:
            return {}
        return {"momentum_buffer": torch.zeros_like(parameter)}  # its first step is that of torch's copy

    def _update(
        self,
        parameters: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Tensor]],
        poisoned: Tensor | None,
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
            found_inf=poisoned,
        )


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015); `momentum` is its beta1."""

    decoupled = False  # whether weight decay is apart from the gradient

    def _fresh(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        averages = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros((), device=parameter.device), **averages}

    def _update(
        self,
        parameters: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Tensor]],
        poisoned: Tensor | None,
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
            found_inf=poisoned,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    decoupled = True


KINDS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def build(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> Optimizer:
    """The optimizer of a configuration over all parameters that train."""
    return KINDS[settings.name](parameters, settings)


def learning_rate(epoch: int, lr: float, schedule: ScheduleSettings) -> float:
    """The learning rate of `epoch` (from 1): cosine to 0 at the last, blended in from `warmup_lr`.

    With E epochs, W of them warm-up: cos(e) = lr (1 + cos(pi e / E)) / 2, and for e <= W
    cos(e) (e - 1) / W + warmup_lr (W + 1 - e) / W. The released code of AugLocal, MAN and MLAAN (W = 10);
    no paper mentions the warm-up. `zero_based` is cos(e - 1), which begins at lr and ends above 0: the released
    code of the same three for ImageNet, with W = 0. With milestones it is lr, times `decay` once for each epoch
    of them that is over, in the cosine's place.
    """
    if schedule.milestones:
        base = lr * schedule.decay ** sum(epoch > milestone for milestone in schedule.milestones)
    else:
        along = epoch - schedule.zero_based
        base = 0.5 * lr * (1 + math.cos(math.pi * along / schedule.epochs))
    warmup = schedule.warmup_epochs
    if epoch > warmup:
        return base
    start = min(schedule.warmup_lr, lr)  # 0.01 there, which would not warm up Adam
    return (base * (epoch - 1) + start * (warmup + 1 - epoch)) / warmup


WARMUP_FACTOR = 1e-3  # of the learning rate, at the first step


def warmed_up(step: int, steps: int) -> float:
    """The factor by which a run's step (from 0) has less than its learning rate: linear over the first `steps`.

    torchvision's reference for detection.
    """
    return 1.0 if step >= steps else WARMUP_FACTOR + (1 - WARMUP_FACTOR) * step / steps
