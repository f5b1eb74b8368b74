"""Batches of pictures on disk, decoded by worker processes while the device computes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from localsl.core.initialization import stream
from localsl.data.batches import Normalisation
from localsl.data.pictures import Pictures, Transform, for_test, for_training
from localsl.data.workers import ReadAhead, workers
from localsl.execution.processes import WHOLE, Part

if TYPE_CHECKING:
    from localsl.data.settings import DatasetSettings

# A batch is decoded in pieces, so that several workers share the first batch and few pictures wait in memory.
MAX_PIECES = 16  # of a batch
MIN_PIECE = 16  # pictures, except for the last piece of a batch


@dataclass(frozen=True)
class Piece:
    """Pictures that a worker decodes at a time.

    Attributes:
        pictures: their indices in the split, (n,).
        positions: their positions in the epoch, (n,), which seed the augmentation; None if there is none.
        seed, epoch: further seeds of the augmentation.
    """

    pictures: np.ndarray
    positions: np.ndarray | None = None
    seed: int = 0
    epoch: int = 0


class Decoder(Dataset):
    """Decodes a piece to images (n, 3, size, size) uint8, or returns a message if a file is broken; run by workers.

    The random numbers of a picture are a function of (seed, epoch, position) only, so results do not depend on the
    number of workers.
    """

    def __init__(self, pictures: Pictures, transform: Transform):
        self._pictures, self._transform = pictures, transform

    def __getitems__(self, piece: Piece) -> Tensor | str:
        size = self._pictures.size
        images = torch.empty(len(piece.pictures), 3, size, size, dtype=torch.uint8)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual metadata, which is not used
            for row, index in enumerate(piece.pictures):
                if piece.positions is not None:
                    seed = stream(piece.seed, "picture", piece.epoch, int(piece.positions[row]))
                    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
                image = self._pictures.decoded(int(index), self._transform)
                if isinstance(image, str):
                    return image
                images[row] = image
        return images


class Feed:
    """Normalised batches on the device, which workers decode ahead of their use.

    The workers start with the first batch and run until `close`.
    """

    def __init__(
        self,
        decoder: Decoder,
        size: int,
        dataset: DatasetSettings,
        batch_size: int,
        device: torch.device,
        layout: torch.memory_format,
    ):
        self._size, self._device = size, device
        self._piece = max(MIN_PIECE, -(-batch_size // MAX_PIECES))
        pieces = -(-2 * batch_size // self._piece)  # of two batches
        self._read = ReadAhead(decoder, workers(dataset.workers), pieces, pinned=device.type == "cuda")
        self._normalise = Normalisation(dataset, torch.empty(0, 3, size, size), device, layout)

    def __call__(self, batches: Sequence[Piece]) -> Iterator[Tensor]:
        """Yield each batch as (n, 3, size, size) float32.

        Raises:
            LocalslError: naming a file that can no longer be decoded.
        """
        parts = [list(_cut(batch, self._piece)) for batch in batches]
        arriving = self._read([piece for part in parts for piece in part])
        for batch, part in zip(batches, parts, strict=True):
            images = torch.empty(
                len(batch.pictures), 3, self._size, self._size, dtype=torch.uint8, device=self._device
            )
            for place in images.split([len(piece.pictures) for piece in part]):
                place.copy_(next(arriving), non_blocking=True)
            yield self._normalise(images)

    def close(self) -> None:
        """Stop the workers; another epoch would start new ones."""
        self._read.close()


class TrainPictures:
    """Augmented batches of pictures on disk: images (n, 3, size, size) float32, targets (n,) int64."""

    def __init__(
        self,
        pictures: Pictures,
        dataset: DatasetSettings,
        batch_size: int,
        device: torch.device,
        layout: torch.memory_format = torch.contiguous_format,
        part: Part = WHOLE,
    ):
        """`batch_size` counts the images of all processes; `part` is this process's share of each batch."""
        self._batch_size, self._part, self._device = batch_size, part, device
        self._targets = pictures.targets.to(device)
        decoder = Decoder(pictures, for_training(pictures.size, dataset.flip))
        self._feed = Feed(decoder, pictures.size, dataset, -(-batch_size // part.size), device, layout)

    def __len__(self) -> int:
        return -(-len(self._targets) // self._batch_size)

    def epoch(self, seed: int, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of one epoch in the order that (seed, epoch) determine, without the first `skip`."""
        random = torch.Generator().manual_seed(stream(seed, "epoch", epoch))
        order = torch.randperm(len(self._targets), generator=random)
        positions = self._part.of_epoch(len(order), self._batch_size)[skip:]
        if not positions:  # resumed after the last batch of the epoch
            return
        chosen = order[torch.cat(positions)].to(self._device).split([len(batch) for batch in positions])
        pieces = [Piece(order[batch].numpy(), batch.numpy(), seed, epoch) for batch in positions]
        for images, index in zip(self._feed(pieces), chosen, strict=True):
            yield images, self._targets[index]

    def close(self) -> None:
        """Stop the workers."""
        self._feed.close()


class TestPictures:
    """Batches of centre crops of this process's share of a split, in the order of the split."""

    __test__ = False  # keeps pytest from collecting the class

    def __init__(
        self,
        pictures: Pictures,
        dataset: DatasetSettings,
        batch_size: int,
        device: torch.device,
        layout: torch.memory_format = torch.contiguous_format,
        part: Part = WHOLE,
    ):
        batches, targets = part.of_all(len(pictures), batch_size), pictures.targets.to(device)
        self._targets = [targets[batch] for batch in batches]
        self._pieces = [Piece(np.arange(batch.start, batch.stop)) for batch in batches]
        decoder = Decoder(pictures, for_test(pictures.size))
        self._feed = Feed(decoder, pictures.size, dataset, -(-batch_size // part.size), device, layout)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self._feed(self._pieces), self._targets, strict=True)

    def close(self) -> None:
        """Stop the workers."""
        self._feed.close()


def _cut(batch: Piece, size: int) -> Iterator[Piece]:
    for begin in range(0, len(batch.pictures), size):
        part = slice(begin, begin + size)
        positions = None if batch.positions is None else batch.positions[part]
        yield Piece(batch.pictures[part], positions, batch.seed, batch.epoch)
