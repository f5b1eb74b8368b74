"""Losses measured from the published implementations, and the fill that reproduces them.

ResNet-32 on one batch of 8 images in training mode, fp32 on the CPU. Every tensor is filled from its shape
alone, so neither names nor the order of creation matter.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

MEAN = torch.tensor([125.3, 123.0, 113.9]).view(1, 3, 1, 1) / 255
STD = torch.tensor([63.0, 62.1, 66.7]).view(1, 3, 1, 1) / 255

OUTPUT = 6.066420555114746
"""The cross-entropy of the backbone's own classifier: the last loss under every rule, BP's only one."""

BP_GRADIENT = 393.9510403779908
"""Sum of the squared gradients of all parameters."""

DGL = [
    3.076892852783203,
    2.6178085803985596,
    2.918508768081665,
    2.6928350925445557,
    2.3054463863372803,
    2.304391622543335,
    3.008823871612549,
    2.8562049865722656,
    2.7880940437316895,
    2.525352954864502,
    2.4559853076934814,
    2.94905161857605,
    2.7625749111175537,
    2.5297107696533203,
    2.8449819087982178,
]
DGL_GRADIENT = 3004.313752990924


def fill(network: nn.Module) -> None:
    """Overwrite every convolution, linear layer and BatchNorm, auxiliary networks included."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.data = normal(module.weight.shape, math.sqrt(2 / fan_in))
            if module.bias is not None:
                module.bias.data = normal(module.bias.shape, 0.01)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.weight.data = 1 + normal(module.weight.shape, 0.1)
            module.bias.data = normal((module.num_features, 1), 0.1)[:, 0]


def batch(count: int = 8, size: int = 32) -> tuple[Tensor, Tensor]:
    """Normalised images and their targets 0, 1, 2, ..."""
    images = np.random.default_rng([count, size]).random((count, 3, size, size))
    return (torch.from_numpy(images).float() - MEAN) / STD, torch.arange(count) % 10


def normal(shape: tuple[int, ...], scale: float) -> Tensor:
    values = np.random.default_rng(list(shape)).standard_normal(tuple(shape))
    return torch.from_numpy(values * scale).float()
