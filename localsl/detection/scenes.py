"""The scenes of a split, in memory or on disk, and their ground truth in COCO's format."""

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
    """A split for detection."""

    @property
    def image_ids(self) -> Sequence[int]:
        """Of its images in the ground truth, one a scene."""
        ...

    @property
    def category_ids(self) -> Sequence[int]:
        """There, of the labels 1, 2, ..."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether a scene is there without being read and decoded."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Scene | str:
        """A scene; in words why not, where its file is broken."""
        ...

    def truth(self) -> dict[str, Any]:
        """What an annotation file of COCO's holds of these images."""
        ...


def subset(count: int, wanted: int) -> Tensor:
    """Sorted indices of a fixed subset of so many scenes."""
    random = torch.Generator().manual_seed(SUBSET_SEED)
    return torch.randperm(count, generator=random)[:wanted].sort().values


@dataclass(frozen=True)
class MadeScenes:
    """Scenes of dataset=shapes."""

    scenes: list[Scene]

    @property
    def in_memory(self) -> bool:
        """They are made beforehand."""
        return True

    @classmethod
    def of(cls, split: str, wanted: int | None) -> MadeScenes:
        """A split, or a fixed subset of it."""
        count = shapes.COUNTS[split]
        return cls([shapes.scene(split, int(index)) for index in subset(count, wanted or count)])

    @property
    def image_ids(self) -> Sequence[int]:
        """From 1: COCO's tools take an id of 0 for none."""
        return range(1, len(self.scenes) + 1)

    @property
    def category_ids(self) -> Sequence[int]:
        """The labels themselves."""
        return range(1, len(shapes.KINDS) + 1)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Scene:
        return self.scenes[index]

    def truth(self) -> dict[str, Any]:
        """Images, objects and kinds; masks are run-length encoded."""
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
    """Left, top, width and height, as COCO has boxes."""
    left, top, right, bottom = box.tolist()
    return [left, top, right - left, bottom - top]


def encoded(mask: Tensor) -> dict[str, Any]:
    """A mask (H, W) of 0 and 1, run-length encoded."""
    from pycocotools import mask as coding  # imported only where something is detected

    return dict(coding.encode(np.asfortranarray(mask.numpy().astype(np.uint8))))
