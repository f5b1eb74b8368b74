"""Batches of a split in memory, made on the device: shuffled, cropped and flipped at random, normalised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from localsl.core.initialization import stream
from localsl.data.splits import Split
from localsl.execution.processes import WHOLE, Part

if TYPE_CHECKING:
    from localsl.data.settings import DatasetSettings


@dataclass(frozen=True)
class Draw:
    """The random choices of one epoch: a function of seed and epoch only, and the same on every device.

    Attributes:
        order: permutation of the images, (N,).
        top, left: upper left corner of each crop in the padded image, (N,), from 0 to twice the padding.
        flip: whether the crop is mirrored, (N,) bool.
    """

    order: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor

    @classmethod
    def of(cls, count: int, dataset: DatasetSettings, seed: int, epoch: int) -> Draw:
        """Draw the choices of `epoch` for `count` images."""
        random = torch.Generator().manual_seed(stream(seed, "epoch", epoch))
        order = torch.randperm(count, generator=random)
        corners = torch.randint(0, 2 * dataset.padding + 1, (2, count), generator=random)
        flip = torch.rand(count, generator=random) < 0.5
        return cls(order, corners[0], corners[1], flip & dataset.flip)


class Normalisation:
    """Converts uint8 images to float32, normalised by the data set's channel means and standard deviations."""

    def __init__(
        self, dataset: DatasetSettings, images: Tensor, device: torch.device, layout: torch.memory_format
    ):
        """`images` gives the image size, `layout` the memory format of the result."""
        # One value per pixel, not per channel: broadcasting over channels-last pixels is ten times slower.
        self._mean, self._std = (
            (torch.tensor(values, device=device).view(1, 3, 1, 1) / 255)
            .expand(1, 3, *images.shape[2:])
            .contiguous(memory_format=layout)
            for values in (dataset.mean, dataset.std)
        )
        self._layout = layout

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise uint8 images (n, 3, H, W)."""
        images = images.to(torch.float32, memory_format=self._layout)
        return images.div_(255).sub_(self._mean).div_(self._std)


class TrainBatches:
    """Augmented batches of a split: images (n, 3, H, W) float32, targets (n,) int64.

    Images are padded before they are normalised, so that zero is black. The last batch of an epoch may be smaller.
    """

    def __init__(
        self,
        split: Split,
        dataset: DatasetSettings,
        batch_size: int,
        device: torch.device,
        layout: torch.memory_format = torch.contiguous_format,
        part: Part = WHOLE,
    ):
        """`batch_size` counts the images of all processes; `part` is this process's share of each batch."""
        self._dataset, self._batch_size, self._device, self._part = dataset, batch_size, device, part
        self._targets = split.targets.to(device)
        size, pad = split.images.shape[-1], dataset.padding
        border = ((0, 0), (0, 0), (pad, pad), (pad, pad))
        mode = "reflect" if dataset.padding_mode == "reflect" else "constant"
        padded = torch.from_numpy(np.pad(split.images.numpy(), border, mode=mode))
        padded = padded.contiguous(memory_format=layout).to(device)  # batches then need no copy into the layout
        # A view, not a copy, of every crop of every image: (N, 3, 2 pad + 1, 2 pad + 1, H, W).
        self._crops = padded.unfold(2, size, 1).unfold(3, size, 1)
        self._normalise = Normalisation(dataset, split.images, device, layout)

    def __len__(self) -> int:
        return -(-len(self._targets) // self._batch_size)

    def epoch(self, seed: int, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of one epoch in the order that (seed, epoch) determine, without the first `skip`."""
        count = len(self._targets)
        draw = Draw.of(count, self._dataset, seed, epoch)
        batches = self._part.of_epoch(count, self._batch_size)[skip:]
        if not batches:  # resumed after the last batch of the epoch
            return
        own, sizes = torch.cat(batches), [len(positions) for positions in batches]
        parts = [drawn[own].to(self._device) for drawn in (draw.order, draw.top, draw.left, draw.flip)]
        for index, top, left, flip in zip(*(part.split(sizes) for part in parts), strict=True):
            yield self.augmented(index, top, left, flip), self._targets[index]

    def augmented(self, index: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
        """Crop the images `index` at (top, left), mirror them where `flip` is set, and normalise them."""
        crops = self._crops[index, :, top, left]
        if self._dataset.flip:
            # Selects bitwise, a ^ ((a ^ b) & mask): `torch.where` is ten times slower for uint8 on a CPU.
            chosen = flip.to(torch.uint8).mul_(255).view(-1, 1, 1, 1)
            crops = crops.flip(3).bitwise_xor_(crops).bitwise_and_(chosen).bitwise_xor_(crops)
        return self._normalise(crops)

    def close(self) -> None:
        """Do nothing: these batches have no worker processes."""


class TestBatches:
    """Normalised batches of this process's share of a split, in the order of the split."""

    __test__ = False  # keeps pytest from collecting the class

    def __init__(
        self,
        split: Split,
        dataset: DatasetSettings,
        batch_size: int,
        device: torch.device,
        layout: torch.memory_format = torch.contiguous_format,
        part: Part = WHOLE,
    ):
        batches = part.of_all(len(split), batch_size)
        index = torch.cat([torch.arange(batch.start, batch.stop) for batch in batches])
        on_device, sizes = split[index].to(device), [batch.stop - batch.start for batch in batches]
        self._images = on_device.images.split(sizes)
        self._targets = on_device.targets.split(sizes)
        self._normalise = Normalisation(dataset, split.images, device, layout)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets in zip(self._images, self._targets, strict=True):
            yield self._normalise(images), targets

    def close(self) -> None:
        """Do nothing: these batches have no worker processes."""
