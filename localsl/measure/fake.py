"""Training steps on tensors without data: any size of batch and network, on any machine, in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from localsl.config.building import build_network
from localsl.core.network import LocalNetwork
from localsl.execution import handover
from localsl.train import optim
from localsl.train.optim import Optimizer
from localsl.train.step import autocast

if TYPE_CHECKING:
    from localsl.config.schema import Config


@dataclass(frozen=True)
class FakeRun:
    """A network, its optimizer and a batch, as a training step takes them."""

    network: LocalNetwork
    optimizer: Optimizer
    images: Tensor
    targets: Tensor


class _Elsewhere:
    """The other stages of a network of which one is traced: they take what it hands on, and keep nothing."""

    def __init__(self, images: Tensor):
        self._images = images

    def images(self) -> Tensor:
        """The batch's."""
        return self._images

    def hand_on(self, features: Tensor) -> None:
        """Nothing."""

    def fetch_followed(self) -> None:
        """Nothing."""


@contextmanager
def fake_run(cfg: Config, batch_size: int, stage: range | None = None) -> Iterator[FakeRun]:
    """What a configuration trains, none of it with data: to be used inside the context only.

    Args:
        stage: these modules alone, as one of several processes has them; `images` are then their input.
    """
    network, size, mode = build_network(cfg), cfg.dataset.image_size, FakeTensorMode()
    # Built of real tensors, which can be copied, and faked in place: momentum layers refer to modules.
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = mode.from_tensor(parameter.detach())
            module._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = mode.from_tensor(buffer)
    with mode:
        images = torch.zeros(batch_size, 3, size, size)
        if stage is not None:
            ends = handover.boundaries(network, images, autocast(cfg.precision, images.device))
            network.restrict(stage, _Elsewhere(images))
            images = ends[stage.start].empty(batch_size, images.device)
        optimizer = optim.build(network.parameters(), cfg.optimizer)
        yield FakeRun(network, optimizer, images, torch.zeros(batch_size, dtype=torch.int64))
