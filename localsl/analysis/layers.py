"""The features of a trained network after each local layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from localsl.data.batches import Normalisation
from localsl.data.pictures import Pictures, in_memory
from localsl.data.splits import Split
from localsl.execution import devices

if TYPE_CHECKING:
    from localsl.config.schema import Config
    from localsl.core.network import LocalNetwork

BATCH = 500  # images in a forward pass, unless specified otherwise


@torch.no_grad()
def outputs(network: LocalNetwork, images: Tensor) -> Iterator[Tensor]:
    """Yield the output (N, C, H, W) of each local layer for normalised images, so that few are held at a time."""
    x = images
    for layer in network.backbone.layers:
        x = layer(x)
        yield x


def normalised(
    cfg: Config, split: Split | Pictures, device: torch.device, batch: int | None
) -> Iterator[Tensor]:
    """The images of a split, normalised for a run's network, in batches whose sizes differ by at most one.

    Args:
        batch: the maximum size of a batch; None for a single batch.
    """
    normalise = Normalisation(cfg.dataset, in_memory(split[:1]).images, device, devices.layout(cfg))
    parts = -(-len(split) // batch) if batch else 1
    for index in torch.tensor_split(torch.arange(len(split)), parts):
        part = split[int(index[0]) : int(index[-1]) + 1]
        yield normalise(in_memory(part).images.to(device))
