"""Which batches a split makes: of images in memory, or of pictures on disk."""

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
        """One epoch, in the order of (seed, epoch), without the first `skip`."""
        ...

    def close(self) -> None:
        """Let go of what makes them."""
        ...


class Tests(Protocol):
    """Batches of test images, likewise."""

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None:
        """Let go of what makes them."""
        ...


def train_batches(
    split: Split | Pictures,
    cfg: Loading,
    device: torch.device,
    layout: torch.memory_format,
    part: Part,
) -> Epochs:
    """Of a training split; `part` is this process's of every batch of `cfg.batch_size`."""
    if isinstance(split, Split):
        return TrainBatches(split, cfg.dataset, cfg.batch_size, device, layout, part)
    from localsl.data.streamed import TrainPictures  # torch's loader is imported only where it is needed

    return TrainPictures(split, cfg.dataset, cfg.batch_size, device, layout, part)


def test_batches(
    split: Split | Pictures,
    cfg: Loading,
    device: torch.device,
    layout: torch.memory_format,
    part: Part,
) -> Tests:
    """Of a test split; `part` is this process's of the images."""
    if isinstance(split, Split):
        return TestBatches(split, cfg.dataset, cfg.batch_size, device, layout, part)
    from localsl.data.streamed import TestPictures

    return TestPictures(split, cfg.dataset, cfg.batch_size, device, layout, part)
