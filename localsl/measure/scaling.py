"""A model of step times on several devices, in a pipeline or with data parallelism, from times on one device.

Devices are equal, and each pair of neighbours has its own connection. Two effects are not modelled: kernels are less
efficient on the smaller batches of data parallelism, and devices of one machine compete for memory bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from localsl.execution.balance import Turn, balanced


@dataclass(frozen=True)
class Module:
    """The cost of a module in a training step on one device.

    Attributes:
        turn: seconds of its forward and backward pass, including auxiliary networks.
        alone: seconds of the forward and backward pass of its layers only.
        output: bytes of its output features for the batch.
        followed: bytes of the weights that its momentum layers follow, by the index of the module that trains them.
    """

    turn: Turn
    alone: float
    output: int
    followed: dict[int, int] = field(default_factory=dict)


def pipelined(
    modules: Sequence[Module], devices: int, cuts: Sequence[int], bandwidth: float, steps: int
) -> float:
    """Seconds per step of modules that run in parallel on several devices, including filling the pipeline.

    Args:
        cuts: the modules that a device may begin with, without 0.
        bandwidth: bandwidth of each connection, in bytes per second.
        steps: steps per epoch, at the start of which the pipeline is filled.
    """
    stages = balanced([module.turn.total for module in modules], devices, cuts).stages
    device_of = {module: device for device, stage in enumerate(stages) for module in stage}
    ends = [0.0] * devices  # when each device ends its step
    free = [0.0] * devices  # when each device's connection to the next one becomes free
    for _ in range(steps):
        arrival, previous_ends = 0.0, list(ends)
        for device, stage in enumerate(stages):
            held = [modules[i] for i in stage]
            start = max(arrival, ends[device])
            end = start + sum(module.turn.total for module in held)
            output_ready = end - held[-1].turn.backward
            free[device] = max(free[device], output_ready) + held[-1].output / bandwidth
            arrival = free[device]
            for module in held:
                for followed, weights in module.followed.items():
                    if device_of[followed] != device:
                        # It waits for the weights of the other device's previous step.
                        end = max(end, previous_ends[device_of[followed]] + weights / bandwidth)
            ends[device] = end
    return max(ends) / steps


def data_parallel(seconds: float, weights: int, devices: int, bandwidth: float) -> float:
    """Seconds per step with equal shares of the batch and an overlapping ring all-reduce of the gradients.

    Args:
        seconds: seconds of a step on one device.
        weights: bytes of all gradients.
        devices: number of devices.
        bandwidth: bandwidth of each connection, in bytes per second.
    """
    return max(seconds / devices, 2 * (devices - 1) / devices * weights / bandwidth)


def pipelined_backpropagation(
    alone: Sequence[float], outputs: Sequence[int], devices: int, microbatches: int, bandwidth: float
) -> float:
    """Seconds per step of pipelined backpropagation (GPipe).

    With G devices and M microbatches the bubble is (G - 1) / (M + G - 1) of the time. The slowest device or
    connection sets the pace.

    Args:
        alone: seconds of the forward and backward pass of each module's layers.
        outputs: bytes of each module's output features for the batch; their gradients return the same way.
        devices: G.
        microbatches: M.
        bandwidth: bandwidth of each connection, in bytes per second.
    """
    stages = balanced(alone, devices, range(1, len(alone))).stages
    slowest = max(sum(alone[i] for i in stage) for stage in stages)
    busiest = max((2 * outputs[stage[-1]] / bandwidth for stage in stages[:-1]), default=0.0)
    return max(slowest, busiest) * (microbatches + devices - 1) / microbatches
