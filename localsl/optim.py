"""The optimizer and the learning rate of each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

if TYPE_CHECKING:
    from localsl.settings import OptimizerConfig, ScheduleConfig


class SGD:
    """torch's fused SGD over all trainable parameters, weight decay on every one of them.

    The arithmetic is torch's own function. Its class is not used because constructing it imports the compiler,
    which takes about as long as importing torch does.

    Attributes:
        parameters: what it updates.
        lr: learning rate of the next step.
        state: by parameter, {"momentum_buffer": tensor} from its first gradient on.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: OptimizerConfig):
        self.parameters = [p for p in parameters if p.requires_grad]
        self.lr = settings.lr
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        self._momentum, self._nesterov = settings.momentum, settings.nesterov
        self._weight_decay = settings.weight_decay

    def zero_grad(self) -> None:
        """Let go of all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        stepped = [p for p in self.parameters if p.grad is not None]
        sgd(
            cast(list[Tensor], stepped),
            [cast(Tensor, p.grad) for p in stepped],
            [self._momentum_buffer(p) for p in stepped],
            fused=True,
            lr=self.lr,
            momentum=self._momentum,
            nesterov=self._nesterov,
            weight_decay=self._weight_decay,
            dampening=0,
            maximize=False,
        )

    def _momentum_buffer(self, parameter: nn.Parameter) -> Tensor | None:
        if not self._momentum:
            return None
        if parameter not in self.state:  # zeros give the same first step as torch's copy of the gradient
            self.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}
        return self.state[parameter]["momentum_buffer"]


def learning_rate(epoch: int, lr: float, schedule: ScheduleConfig) -> float:
    """The learning rate of `epoch` (from 1): cosine to 0 at the last, blended in from `warmup_lr`.

    With E epochs, W of them warm-up: cos(e) = lr (1 + cos(pi e / E)) / 2, and for e <= W
    cos(e) (e - 1) / W + warmup_lr (W + 1 - e) / W. The released code of AugLocal, MAN and MLAAN (W = 10);
    no paper mentions the warm-up.
    """
    cosine = 0.5 * lr * (1 + math.cos(math.pi * epoch / schedule.epochs))
    warmup = schedule.warmup_epochs
    if epoch > warmup:
        return cosine
    return (cosine * (epoch - 1) + schedule.warmup_lr * (warmup + 1 - epoch)) / warmup
