"""Batches of scenes, shuffled and flipped at random; worker processes decode those that lie on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from localsl.core.initialization import stream
from localsl.data.scenes import Scene
from localsl.data.workers import ReadAhead, workers
from localsl.detection.scenes import Scenes
from localsl.execution.processes import WHOLE, Part


@dataclass(frozen=True)
class Selection:
    """The scenes of a batch, and which of them are mirrored."""

    indices: list[int]
    mirrored: list[bool]


class Reader(Dataset):
    """Reads the scenes of a batch, or returns a message if a file is broken; run by workers."""

    def __init__(self, scenes: Scenes, objects: bool):
        """`objects` says whether to read boxes and masks beside the images."""
        self._one = scenes.__getitem__ if objects else scenes.without_objects

    def __getitems__(self, selection: Selection) -> list[Scene] | str:
        read = []
        for index, mirror in zip(selection.indices, selection.mirrored, strict=True):
            scene = self._one(index)
            if isinstance(scene, str):
                return scene
            read.append(scene.mirrored() if mirror else scene)
        return read


class Loader:
    """Batches of scenes on the device, read ahead by workers if the scenes lie on disk."""

    def __init__(self, scenes: Scenes, processes: int | None, device: torch.device, objects: bool = True):
        count = 0 if scenes.in_memory else workers(processes)
        self._read = ReadAhead(Reader(scenes, objects), count, requests=2 * count)
        self._device = device

    def __call__(self, batches: Sequence[Selection]) -> Iterator[tuple[list[Tensor], list[Scene]]]:
        """Yield each batch's images, (3, H, W) float32 from 0 to 1, and its scenes.

        Raises:
            LocalslError: naming a file that can no longer be decoded.
        """
        for scenes in self._read(batches):
            yield [scene.image.to(self._device).float().div_(255) for scene in scenes], scenes

    def close(self) -> None:
        """Stop the workers; another epoch would start new ones."""
        self._read.close()


class TrainScenes:
    """Training batches: lists of images, and of the boxes, labels and masks that torchvision's detectors take."""

    def __init__(
        self,
        scenes: Scenes,
        batch_size: int,
        flip: bool,
        processes: int | None,
        device: torch.device,
        part: Part = WHOLE,
    ):
        """`batch_size` counts all processes' images; `part` is this process's share; `processes` counts workers."""
        self._count, self._batch_size, self._flip, self._part = len(scenes), batch_size, flip, part
        self._loader, self._device = Loader(scenes, processes, device), device

    def __len__(self) -> int:
        return -(-self._count // self._batch_size)

    def epoch(
        self, seed: int, epoch: int, skip: int = 0
    ) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
        """Batches of one epoch in the order that (seed, epoch) determine, without the first `skip`."""
        random = torch.Generator().manual_seed(stream(seed, "epoch", epoch))
        order = torch.randperm(self._count, generator=random)
        mirrored = (torch.rand(self._count, generator=random) < 0.5) & self._flip
        positions = self._part.of_epoch(self._count, self._batch_size)[skip:]
        batches = [Selection(order[batch].tolist(), mirrored[batch].tolist()) for batch in positions]
        for images, scenes in self._loader(batches):
            yield images, [self._target(scene) for scene in scenes]

    def _target(self, scene: Scene) -> dict[str, Tensor]:
        target = {"boxes": scene.boxes, "labels": scene.labels, "masks": scene.masks}
        return {name: value.to(self._device) for name, value in target.items()}

    def close(self) -> None:
        """Stop the workers."""
        self._loader.close()


class TestScenes:
    """Images of this process's share of a split, in the order of the split, with their indices.

    All processes have equally many batches, some of which may be empty.
    """

    __test__ = False  # keeps pytest from collecting the class

    def __init__(
        self,
        scenes: Scenes,
        batch_size: int,
        processes: int | None,
        device: torch.device,
        part: Part = WHOLE,
    ):
        shares = [list(range(s.start, s.stop)) for s in part.of_all(len(scenes), batch_size)]
        self._batches = [Selection(indices, [False] * len(indices)) for indices in shares]
        self._loader = Loader(scenes, processes, device, objects=False)

    def __iter__(self) -> Iterator[tuple[list[Tensor], list[int]]]:
        read = self._loader(self._batches)
        for batch, (images, _) in zip(self._batches, read, strict=True):
            yield images, batch.indices

    def close(self) -> None:
        """Stop the workers."""
        self._loader.close()
