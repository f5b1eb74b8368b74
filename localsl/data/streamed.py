"""Batches of pictures on disk, decoded by processes of their own while the device computes."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from localsl.core.initialization import stream
from localsl.core.settings import LocalslError
from localsl.data.batches import Normalisation
from localsl.data.pictures import Pictures, Transform, for_test, for_training
from localsl.execution.processes import WHOLE, Part, started

if TYPE_CHECKING:
    from localsl.data.settings import DatasetSettings

# A batch is decoded in up to so many pieces, none of fewer pictures than the second number: several processes
# have the first one ready soon, and few pictures are held that nobody asks for yet.
PIECES, SMALLEST = 16, 16


def workers(chosen: int | None) -> int:
    """How many processes decode: as chosen, or this process's share of the cores that it may use."""
    if chosen is not None:
        return chosen
    own = "SLURM_CPUS_PER_TASK" in os.environ  # those that it may use are no other process's
    return max(1, joblib.cpu_count() // (1 if own else started().local_size))


@dataclass(frozen=True)
class Piece:
    """Pictures that a worker decodes at a time.

    Attributes:
        pictures: which of the split, (n,).
        positions: their places in the epoch's order; None draws nothing.
        seed, epoch: what their random numbers also depend on.
    """

    pictures: np.ndarray
    positions: np.ndarray | None = None
    seed: int = 0
    epoch: int = 0


class Decoder(Dataset):
    """What workers run: a piece becomes images (n, 3, size, size) uint8, or a text that says what broke.

    A picture's random numbers are a function of (seed, epoch, position): who decodes it, and what was decoded
    before, does not matter.
    """

    def __init__(self, pictures: Pictures, transform: Transform):
        self._pictures, self._transform = pictures, transform

    def __getitems__(self, piece: Piece) -> Tensor | str:
        size = self._pictures.size
        images = torch.empty(len(piece.pictures), 3, size, size, dtype=torch.uint8)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which nothing reads
            for row, index in enumerate(piece.pictures):
                if piece.positions is not None:
                    place = stream(piece.seed, "picture", piece.epoch, int(piece.positions[row]))
                    torch.default_generator.manual_seed(place)  # torch.manual_seed would reach GPUs too
                image = self._pictures.decoded(int(index), self._transform)
                if isinstance(image, str):
                    return image
                images[row] = image
        return images


class Feed:
    """Batches of decoded images on the device, normalised, whose pieces workers decode ahead of their use.

    Workers start with the first batch and stay until `close`.
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
        self._piece = max(SMALLEST, -(-batch_size // PIECES))
        self._pieces: list[Any] = []
        count = workers(dataset.workers)
        more: dict[str, Any] = {}
        if count:
            ahead = -(-2 * batch_size // self._piece)  # pieces of two batches
            more = {"prefetch_factor": max(2, -(-ahead // count)), "persistent_workers": True}
        self._loader = DataLoader(
            decoder,
            batch_sampler=self._pieces,
            num_workers=count,
            collate_fn=as_it_is,
            pin_memory=device.type == "cuda",
            worker_init_fn=begin_worker,
            generator=torch.Generator(),  # else each epoch would draw from the one that dropout draws from
            **more,
        )
        self._normalise = Normalisation(dataset, torch.empty(0, 3, size, size), device, layout)

    def __call__(self, batches: Sequence[Piece]) -> Iterator[Tensor]:
        """Each batch as (n, 3, size, size) float32.

        Raises:
            LocalslError: naming a file that can no longer be decoded.
        """
        parts = [list(_cut(batch, self._piece)) for batch in batches]
        self._pieces[:] = [piece for part in parts for piece in part]
        arriving = iter(self._loader) if parts else iter(())
        for batch, part in zip(batches, parts, strict=True):
            images = torch.empty(
                len(batch.pictures), 3, self._size, self._size, dtype=torch.uint8, device=self._device
            )
            for place in images.split([len(piece.pictures) for piece in part]):
                decoded = next(arriving)
                if isinstance(decoded, str):
                    raise LocalslError(
                        f"{decoded}; it broke while the run was on, which goes on once it is whole"
                    )
                place.copy_(decoded, non_blocking=True)
            yield self._normalise(images)

    def close(self) -> None:
        """End the workers. Another epoch would start new ones."""
        running: Any = self._loader._iterator
        if running is not None:  # torch would wait for the object to be collected, which errors keep alive
            running._shutdown_workers()
            self._loader._iterator = None


class TrainPictures:
    """Augmented batches of pictures on disk: what `TrainBatches` is of images in memory."""

    def __init__(
        self,
        pictures: Pictures,
        dataset: DatasetSettings,
        batch_size: int,
        device: torch.device,
        layout: torch.memory_format = torch.contiguous_format,
        part: Part = WHOLE,
    ):
        """`batch_size` is of all processes together; `part` is this one's."""
        self._batch_size, self._part, self._device = batch_size, part, device
        self._targets = pictures.targets.to(device)
        decoder = Decoder(pictures, for_training(pictures.size, dataset.flip))
        self._feed = Feed(decoder, pictures.size, dataset, -(-batch_size // part.size), device, layout)

    def __len__(self) -> int:
        return -(-len(self._targets) // self._batch_size)

    def epoch(self, seed: int, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of batches, in the order of (seed, epoch), without the first `skip`."""
        random = torch.Generator().manual_seed(stream(seed, "epoch", epoch))
        order = torch.randperm(len(self._targets), generator=random)
        positions = self._part.of_epoch(len(order), self._batch_size)[skip:]
        if not positions:  # what is left of an epoch that was done
            return
        chosen = order[torch.cat(positions)].to(self._device).split([len(batch) for batch in positions])
        pieces = [Piece(order[batch].numpy(), batch.numpy(), seed, epoch) for batch in positions]
        for images, index in zip(self._feed(pieces), chosen, strict=True):
            yield images, self._targets[index]

    def close(self) -> None:
        """End the processes that decode."""
        self._feed.close()


class TestPictures:
    """The pictures of a split that are this process's part, in their own order, their middle squares."""

    __test__ = False  # the name is no test's

    def __init__(
        self,
        pictures: Pictures,
        dataset: DatasetSettings,
        batch_size: int,
        device: torch.device,
        layout: torch.memory_format = torch.contiguous_format,
        part: Part = WHOLE,
    ):
        mine, targets = part.of_all(len(pictures), batch_size), pictures.targets.to(device)
        self._targets = [targets[batch] for batch in mine]
        self._pieces = [Piece(np.arange(batch.start, batch.stop)) for batch in mine]
        decoder = Decoder(pictures, for_test(pictures.size))
        self._feed = Feed(decoder, pictures.size, dataset, -(-batch_size // part.size), device, layout)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self._feed(self._pieces), self._targets, strict=True)

    def close(self) -> None:
        """End the processes that decode."""
        self._feed.close()


def _cut(batch: Piece, size: int) -> Iterator[Piece]:
    for begin in range(0, len(batch.pictures), size):
        part = slice(begin, begin + size)
        positions = None if batch.positions is None else batch.positions[part]
        yield Piece(batch.pictures[part], positions, batch.seed, batch.epoch)


def as_it_is(decoded: Any) -> Any:
    """What a loader's processes return for a batch is the batch."""
    return decoded


def begin_worker(worker: int) -> None:
    """Of a worker: a signal that stops a run may reach all its processes, of which the first alone decides.

    It ends its workers through their queues or, when Python exits, by a SIGTERM of its own.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=[os.getppid()], daemon=True).start()


def _obey(parent: int) -> None:
    """End at the parent's SIGTERM, and at nobody else's."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
