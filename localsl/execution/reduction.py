"""Gradients and statistics averaged over the processes of a run, a module's while the next one runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from localsl.execution.processes import Team


def begin_average(team: Team, parameters: Sequence[nn.Parameter], poisoned: Tensor) -> Callable[[], Tensor]:
    """Start to average the gradients of `parameters`, as one message.

    Args:
        poisoned: scalar, not 0 where this process saw a loss that is not finite.

    Returns:
        what waits for it, puts the averages into `grad`, and returns whether any process is poisoned, a scalar.
    """
    if team.replicas == 1:
        return lambda: poisoned
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(grad.flatten() for grad in grads), poisoned.to(parameters[0].dtype).view(1)])
    wait = team.begin_sum(flat.div_(team.replicas))

    def finish() -> Tensor:
        *averages, flag = wait().split([*(grad.numel() for grad in grads), 1])
        for grad, average in zip(grads, averages, strict=True):
            grad.copy_(average.view_as(grad))
        return (flag[0] > 0).float()

    return finish


def average_statistics(team: Team, network: nn.Module) -> None:
    """BatchNorm's running statistics, each process's of its own images, made the same everywhere: their mean.

    After every step, so that a checkpoint of any moment holds all there is.
    """
    if team.replicas == 1:
        return
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    statistics = [s for norm in norms for s in (norm.running_mean, norm.running_var) if s is not None]
    if not statistics:
        return
    averages = team.sum(torch.cat(statistics).div_(team.replicas)).split([len(s) for s in statistics])
    for own, average in zip(statistics, averages, strict=True):
        own.copy_(average)
