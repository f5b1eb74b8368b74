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
from localsl.core.operations import ShapesOnly
from localsl.execution import handover
from localsl.train import optim
from localsl.train.optim import Optimizer
from localsl.train.step import autocast

if TYPE_CHECKING:
    from localsl.config.schema import Config

# torch 2.11 has no kernel of these for tensors without data, and would run them on real tensors of zeros.
UPDATES = ("_fused_sgd_", "_fused_sgd_.tensor_lr", "_fused_adam_.tensor_lr", "_fused_adamw_.tensor_lr")
_LIBRARY = torch.library.Library("aten", "IMPL", "Meta")
for _update in UPDATES:
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{_update}", "Meta"):
        _LIBRARY.impl(_update, lambda *_, **__: None)


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
    size, mode = cfg.dataset.image_size, FakeTensorMode()
    # The network is built of meta tensors, since fake ones cannot be copied, and then faked in place, since momentum
    # layers refer to its modules.
    with torch.device("meta"), ShapesOnly():
        network = build_network(cfg)
    with mode:
        for module in network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                module._parameters[name] = nn.Parameter(_empty_like(parameter), parameter.requires_grad)
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = _empty_like(buffer)
        images = torch.zeros(batch_size, 3, size, size)
        if stage is not None:
            ends = handover.boundaries(network, images, autocast(cfg.precision, images.device))
            network.restrict(stage, _NoNeighbours(images))
            images = ends[stage.start].empty(batch_size, images.device)
        optimizer = optim.build(network.parameters(), cfg.optimizer)
        yield FakeRun(network, optimizer, images, torch.zeros(batch_size, dtype=torch.int64))


def _empty_like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
