"""Floating-point operations, counted by torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from localsl.network import build_network

if TYPE_CHECKING:
    from localsl.settings import Config


def training_flops(cfg: Config) -> int:
    """What a training step costs per image: three times its forward, auxiliary networks included.

    Multiplications and additions count one each, of convolutions and matrix products, as torch's counter
    does. The backward of both is twice their forward but for the first layer's, which has no input gradient.
    """
    size = cfg.dataset.image_size
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = build_network(cfg).eval()  # in training mode BatchNorm would need two images
        images, targets = torch.zeros(1, 3, size, size), torch.zeros(1, dtype=torch.int64)
        for _ in network.local_losses(images, targets):
            pass
    return 3 * counter.get_total_flops()
