"""The features of a trained network, local layer by local layer."""

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

# Images that are forwarded at a time where nothing else says how many.
BATCH = 500


@torch.no_grad()
def outputs(network: LocalNetwork, images: Tensor) -> Iterator[Tensor]:
    """What each local layer gives for normalised images, (N, C, H, W): in turn, so that few are held."""
    x = images
    for layer in network.backbone.layers:
        x = layer(x)
        yield x


def normalised(
    cfg: Config, split: Split | Pictures, device: torch.device, batch: int | None
) -> Iterator[Tensor]:
    """Images as a run's network takes them in evaluation, in batches whose sizes differ by at most one.

    Args:
        batch: their greatest size; None for all at once.
    """
    normalise = Normalisation(cfg.dataset, in_memory(split[:1]).images, device, devices.layout(cfg))
    parts = -(-len(split) // batch) if batch else 1
    for index in torch.tensor_split(torch.arange(len(split)), parts):
        part = split[int(index[0]) : int(index[-1]) + 1]
        yield normalise(in_memory(part).images.to(device))
