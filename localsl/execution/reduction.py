"""Averaging gradients and BatchNorm statistics over the processes of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from localsl.execution.processes import Team


def begin_average(
    team: Team, parameters: Sequence[nn.Parameter], found_nonfinite: Tensor
) -> Callable[[], Tensor]:
    """Start to average the gradients of `parameters`, in one message.

    Args:
        found_nonfinite: scalar; not 0 if this process has found a non-finite loss.

    Returns:
        A function that waits for the averages, writes them to `grad`, and returns a scalar: 1 if any process found a
        non-finite loss, else 0.
    """
    if team.replicas == 1:
        return lambda: found_nonfinite
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(grad.flatten() for grad in grads), found_nonfinite.to(parameters[0].dtype).view(1)])
    wait = team.begin_sum(flat.div_(team.replicas))

    def finish() -> Tensor:
        *averages, flag = wait().split([*(grad.numel() for grad in grads), 1])
        for grad, average in zip(grads, averages, strict=True):
            grad.copy_(average.view_as(grad))
        return (flag[0] > 0).float()

    return finish


def average_statistics(team: Team, network: nn.Module) -> None:
    """Replace BatchNorm's running statistics, which each process computes on its own images, by their mean.

    This happens after every step, so that the checkpoint of one process is complete at any time.
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
