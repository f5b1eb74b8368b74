"""Training steps on tensors without data (torch's FakeTensor): any network and batch, in seconds, on any machine."""

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
    """The arguments of a training step: a network, its optimizer and a batch."""

    network: LocalNetwork
    optimizer: Optimizer
    images: Tensor
    targets: Tensor


class _NoNeighbours:
    """Stands for the other stages while one stage is traced: nothing is sent or received."""

    def __init__(self, images: Tensor):
        self._images = images

    def images(self) -> Tensor:
        return self._images

    def hand_on(self, features: Tensor) -> None:
        pass

    def fetch_followed(self) -> None:
        pass


@contextmanager
def fake_run(cfg: Config, batch_size: int, stage: range | None = None) -> Iterator[FakeRun]:
    """The network, optimizer and batch of a configuration without data, valid inside the context only.

    Args:
        stage: the modules of one of several processes, if only these are wanted; `images` are then their inputs.
    """
    network, size, mode = build_network(cfg), cfg.dataset.image_size, FakeTensorMode()
    # The network is built of real tensors, since fake ones cannot be copied, and then faked in place, since momentum
    # layers refer to its modules.
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
            network.restrict(stage, _NoNeighbours(images))
            images = ends[stage.start].empty(batch_size, images.device)
        optimizer = optim.build(network.parameters(), cfg.optimizer)
        yield FakeRun(network, optimizer, images, torch.zeros(batch_size, dtype=torch.int64))
