"""Seeds and initial weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn


def stream(seed: int, *what: str | int) -> int:
    """A seed derived from `seed` and `what`, so that each use has random numbers of its own."""
    text = "/".join(map(str, (seed, *what)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


@contextmanager
def seeded(seed: int, *what: str | int) -> Generator[None, None, None]:
    """Seed torch's CPU generator with `stream(seed, *what)` inside, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(stream(seed, *what))  # pyright: ignore[reportUnknownMemberType]
        yield


def normal_fan_out(network: nn.Module) -> None:
    """Draw the weights of convolutions from N(0, 2 / (k k c_out)), as the CIFAR code of all four papers does.

    It does so in auxiliary networks too. All else keeps torch's defaults: BatchNorm starts at 1 and 0, linear
    layers and the biases of convolutions are uniform.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            nn.init.normal_(module.weight, 0, math.sqrt(2 / (height * width * module.out_channels)))


def reset(network: nn.Module) -> None:
    """Redraw all weights of a network with torch's default initialisation."""
    for module in network.modules():
        reset_parameters = getattr(module, "reset_parameters", None)
        if callable(reset_parameters):
            reset_parameters()
