"""The optimizer and the learning rate of each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn, optim

if TYPE_CHECKING:
    from localsl.config import OptimizerConfig, ScheduleConfig


def build_optimizer(parameters: Iterable[nn.Parameter], settings: OptimizerConfig) -> optim.Optimizer:
    """One SGD over all trainable parameters, weight decay on every one of them."""
    return optim.SGD(
        [p for p in parameters if p.requires_grad],
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=True,  # the same arithmetic in one kernel per step; on CPU too
    )


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
