"""A model of step times on several devices, in a pipeline or with data parallelism, from times on one device.

Devices are equal, and each pair of neighbours has its own connection. Two effects are not modelled: kernels are less
efficient on the smaller batches of data parallelism, and devices of one machine compete for memory bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localsl.execution.balance import Turn, balanced


@dataclass(frozen=True)
class Module:
    """The cost of a module in a training step on one device.

    Attributes:
        turn: seconds of its forward and backward pass, including auxiliary networks.
        alone: seconds of the forward and backward pass of its layers only.
        output: bytes of its output features for the batch.
        followed: bytes of weights that its momentum layers follow, assumed to be on the next device; 0 if none.
    """

    turn: Turn
    alone: float
    output: int
    followed: int = 0


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
            if held[-1].followed and device + 1 < devices:
                # It waits for the weights of the next device's previous step.
                end = max(end, previous_ends[device + 1] + held[-1].followed / bandwidth)
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


def pipelined_backpropagation(alone: Sequence[float], devices: int, microbatches: int) -> float:
    """Seconds per step of pipelined backpropagation (GPipe).

    With G devices and M microbatches the bubble is (G - 1) / (M + G - 1) of the time.

    Args:
        alone: seconds of the forward and backward pass of each module's layers.
        devices: G.
        microbatches: M.
    """
    slowest = max(
        sum(alone[i] for i in stage) for stage in balanced(alone, devices, range(1, len(alone))).stages
    )
    return slowest * (microbatches + devices - 1) / microbatches
