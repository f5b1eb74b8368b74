"""Splits of scenes, and their ground truth in COCO's format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from localsl.data import shapes
from localsl.data.scenes import Scene
from localsl.data.splits import SUBSET_SEED


class Scenes(Protocol):
    """A split for detection, in memory or on disk."""

    @property
    def image_ids(self) -> Sequence[int]:
        """The ids of the images in the ground truth, one per scene."""
        ...

    @property
    def category_ids(self) -> Sequence[int]:
        """The ids of the categories in the ground truth, for labels 1, 2, ..."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether scenes need no reading and decoding."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Scene | str:
        """A scene, or a message if its file is broken."""
        ...

    def without_objects(self, index: int) -> Scene | str:
        """A scene whose image is read alone, with none of its objects; or a message if its file is broken."""
        ...

    def truth(self) -> dict[str, Any]:
        """The ground truth in the format of COCO's annotation files."""
        ...


def subset(count: int, size: int) -> Tensor:
    """Sorted indices of a fixed subset of `count` scenes."""
    random = torch.Generator().manual_seed(SUBSET_SEED)
    return torch.randperm(count, generator=random)[:size].sort().values


@dataclass(frozen=True)
class ShapeScenes:
    """A generated split of `dataset=shapes`."""

    scenes: list[Scene]

    @property
    def in_memory(self) -> bool:
        """True: scenes are generated when the split is built."""
        return True

    @classmethod
    def of(cls, split: str, size: int | None) -> ShapeScenes:
        """Generate a split, or a fixed subset of `size` scenes."""
        count = shapes.COUNTS[split]
        return cls([shapes.scene(split, int(index)) for index in subset(count, size or count)])

    @property
    def image_ids(self) -> Sequence[int]:
        """The numbers of the scenes, from 1."""
        return range(1, len(self.scenes) + 1)

    @property
    def category_ids(self) -> Sequence[int]:
        """The labels themselves: 1, 2, 3."""
        return range(1, len(shapes.KINDS) + 1)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Scene:
        return self.scenes[index]

    def without_objects(self, index: int) -> Scene:
        """A scene with none of its objects."""
        scene = self.scenes[index]
        return Scene(scene.image, scene.boxes[:0], scene.labels[:0], scene.masks[:0])

    def truth(self) -> dict[str, Any]:
        """The ground truth in the format of COCO's annotation files, with run-length encoded masks."""
        images, objects = [], []
        for image, scene in zip(self.image_ids, self.scenes, strict=True):
            images.append({"id": image, "height": scene.image.shape[1], "width": scene.image.shape[2]})
            for box, label, mask in zip(scene.boxes, scene.labels, scene.masks, strict=True):
                found: dict[str, Any] = {"id": len(objects) + 1, "image_id": image, "iscrowd": 0}
                found |= {"category_id": int(label), "area": int(mask.sum())}
                objects.append(found | {"bbox": xywh(box), "segmentation": encoded(mask)})
        categories = [{"id": i, "name": name} for i, name in enumerate(shapes.KINDS, 1)]
        return {"images": images, "annotations": objects, "categories": categories}


def xywh(box: Tensor) -> list[float]:
    """A box in COCO's format: left, top, width and height."""
    left, top, right, bottom = box.tolist()
    return [left, top, right - left, bottom - top]


def encoded(mask: Tensor) -> dict[str, Any]:
    """The run-length encoding of a mask (H, W) of 0 and 1."""
    from pycocotools import mask as coding  # imported late, because only detection needs it

    return dict(coding.encode(np.asfortranarray(mask.numpy().astype(np.uint8))))
