"""Seeds and initial weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn


def stream(seed: int, *what: str | int) -> int:
    """A seed of its own for each use, so that no use shifts the random numbers of another."""
    text = "/".join(map(str, (seed, *what)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


@contextmanager
def seeded(seed: int, *what: str | int) -> Generator[None, None, None]:
    """Draw torch's CPU random numbers from `stream(seed, *what)` inside, and leave no trace outside."""
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(stream(seed, *what))  # pyright: ignore[reportUnknownMemberType]
        yield


def normal_fan_out(network: nn.Module) -> None:
    """Convolutions N(0, 2 / (k k c_out)); all else keeps torch's default: BatchNorm 1 and 0, linear layers
    and the biases of convolutions uniform. The CIFAR code of all four papers, auxiliary networks included.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            nn.init.normal_(module.weight, 0, math.sqrt(2 / (height * width * module.out_channels)))


def reset(network: nn.Module) -> None:
    """Draw all weights of a network anew, by torch's own defaults."""
    for module in network.modules():
        again = getattr(module, "reset_parameters", None)
        if callable(again):
            again()
