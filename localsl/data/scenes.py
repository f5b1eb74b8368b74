"""Images with annotated objects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scene:
    """An image and its objects.

    Attributes:
        image: (3, H, W) uint8.
        boxes: (n, 4) float32: left, top, right and bottom, in pixels.
        labels: (n,) int64, from 1; 0 is the background.
        masks: (n, H, W) uint8, 1 at the visible pixels of an object.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor

    def mirrored(self) -> Scene:
        """The scene flipped horizontally."""
        boxes = self.boxes.clone()
        boxes[:, [0, 2]] = self.image.shape[2] - boxes[:, [2, 0]]
        return replace(self, image=self.image.flip(2), boxes=boxes, masks=self.masks.flip(2))


def boxes_of(masks: Tensor) -> Tensor:
    """The bounding boxes (n, 4) of masks (n, H, W), none of which may be empty."""
    found = []
    for mask in masks:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        found.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return torch.tensor(found, dtype=torch.float32)
