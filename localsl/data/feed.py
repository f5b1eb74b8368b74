"""Training and test batches of a split, whether it is in memory or on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from localsl.data.batches import TestBatches, TrainBatches
from localsl.data.pictures import Pictures
from localsl.data.splits import Split
from localsl.execution.processes import Part

if TYPE_CHECKING:
    from localsl.data.settings import Loading

Batch = tuple[Tensor, Tensor]


class Epochs(Protocol):
    """Training batches: images (n, 3, H, W) float32 and targets (n,) int64, on the device."""

    def __len__(self) -> int: ...

    def epoch(self, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Batches of one epoch in the order that (seed, epoch) determine, without the first `skip`."""
        ...

    def close(self) -> None:
        """Stop the worker processes, if there are any."""
        ...


class Tests(Protocol):
    """Test batches: images (n, 3, H, W) float32 and targets (n,) int64, on the device."""

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None:
        """Stop the worker processes, if there are any."""
        ...


def train_batches(
    split: Split | Pictures,
    cfg: Loading,
    device: torch.device,
    layout: torch.memory_format,
    part: Part,
) -> Epochs:
    """Batches of a training split; `part` is this process's share of every batch of `cfg.batch_size`."""
    if isinstance(split, Split):
        return TrainBatches(split, cfg.dataset, cfg.batch_size, device, layout, part)
    from localsl.data.streamed import TrainPictures  # imported late because it imports torch's DataLoader

    return TrainPictures(split, cfg.dataset, cfg.batch_size, device, layout, part)


def test_batches(
    split: Split | Pictures,
    cfg: Loading,
    device: torch.device,
    layout: torch.memory_format,
    part: Part,
) -> Tests:
    """Batches of a test split; `part` is this process's share of the images."""
    if isinstance(split, Split):
        return TestBatches(split, cfg.dataset, cfg.batch_size, device, layout, part)
    from localsl.data.streamed import TestPictures

    return TestPictures(split, cfg.dataset, cfg.batch_size, device, layout, part)
