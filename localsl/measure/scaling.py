"""A model of step times on several devices, from times of one device: pipelines and data parallelism.

Devices are equal, and each pair of neighbours has its own connection. Two effects are not modelled: kernels are less
efficient on the smaller batches of data parallelism, and devices of one machine compete for memory bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localsl.execution.balance import Turn, balanced


@dataclass(frozen=True)
class Module:
    """One module's part of a training step on one device.

    Attributes:
        turn: seconds of its forward and backward, auxiliary networks included.
        alone: seconds of its layers' forward and backward.
        output: bytes of its features for the batch.
        followed: bytes of later weights that it follows, taken to be the next device's; 0 if it follows none.
    """

    turn: Turn
    alone: float
    output: int
    followed: int = 0


def pipelined(
    modules: Sequence[Module], devices: int, cuts: Sequence[int], bandwidth: float, steps: int
) -> float:
    """Seconds a step of modules side by side, over an epoch of so many steps, its filling included.

    Args:
        cuts: the modules that a device may begin with, 0 apart.
        bandwidth: of each connection, in bytes a second.
    """
    stages = balanced([module.turn.total for module in modules], devices, cuts).stages
    ends = [0.0] * devices  # of each device's step
    free = [0.0] * devices  # from when its connection to the next has nothing to send
    for _ in range(steps):
        arrival, before = 0.0, list(ends)
        for device, stage in enumerate(stages):
            held = [modules[i] for i in stage]
            start = max(arrival, ends[device])
            end = start + sum(module.turn.total for module in held)
            hands_on = end - held[-1].turn.backward
            free[device] = max(free[device], hands_on) + held[-1].output / bandwidth
            arrival = free[device]
            if held[-1].followed and device + 1 < devices:  # weights of the next device's last step
                end = max(end, before[device + 1] + held[-1].followed / bandwidth)
            ends[device] = end
    return max(ends) / steps


def data_parallel(seconds: float, weights: int, devices: int, bandwidth: float) -> float:
    """Seconds a step of devices with equal parts of the batch, which reduce gradients in a ring meanwhile.

    Args:
        seconds: of a step on one device.
        weights: bytes of all gradients.
    """
    return max(seconds / devices, 2 * (devices - 1) / devices * weights / bandwidth)


def pipelined_backpropagation(alone: Sequence[float], devices: int, microbatches: int) -> float:
    """Seconds a step of backpropagation through stages (GPipe), with a bubble of (G - 1) / (M + G - 1).

    Args:
        alone: seconds of each module's layers, forward and backward.
    """
    slowest = max(
        sum(alone[i] for i in stage) for stage in balanced(alone, devices, range(1, len(alone))).stages
    )
    return slowest * (microbatches + devices - 1) / microbatches
