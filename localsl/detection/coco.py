"""COCO in its published layout: annotations/instances_*2017.json beside train2017/ and val2017/."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from localsl.core.settings import ConfigError, Problem
from localsl.data import decodable, file_cache
from localsl.data.pictures import Pictures, reason
from localsl.data.scenes import Scene
from localsl.detection import annotations
from localsl.detection.annotations import error, some
from localsl.detection.scenes import subset

if TYPE_CHECKING:
    from localsl.data.settings import DatasetSettings

PARTS = {"train": "train2017", "test": "val2017"}


@dataclass(frozen=True)
class CocoScenes:
    """A split on disk, with its annotations in one byte array that worker processes share without a copy.

    Attributes:
        pictures: one file per image.
        images: one entry of the annotation file per image.
        categories: names by id, in the order of the labels.
        texts: the annotations of all images as concatenated JSON.
        ends: for each image, where its annotations end in `texts`.
    """

    pictures: Pictures
    images: list[dict[str, Any]]
    categories: dict[int, str]
    texts: np.ndarray
    ends: np.ndarray

    @property
    def in_memory(self) -> bool:
        """False: images stay on disk."""
        return False

    @property
    def image_ids(self) -> list[int]:
        """The ids of the images in the annotation file."""
        return [entry["id"] for entry in self.images]

    @property
    def category_ids(self) -> list[int]:
        """The ids of the categories in the annotation file."""
        return list(self.categories)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Scene | str:
        return self._read(index, [entry for entry in self._objects(index) if not entry["iscrowd"]])

    def without_objects(self, index: int) -> Scene | str:
        """A scene with none of its objects, whose masks take long to decode; or a message if its file is broken."""
        return self._read(index, [])

    def truth(self) -> dict[str, Any]:
        """The part of the annotation file that belongs to these images, crowds included."""
        objects = [entry for index in range(len(self)) for entry in self._objects(index)]
        kinds = [{"id": this, "name": name} for this, name in self.categories.items()]
        return {"images": self.images, "annotations": objects, "categories": kinds}

    def _read(self, index: int, entries: list[dict[str, Any]]) -> Scene | str:
        image = self._image(index)
        if isinstance(image, str):
            return image
        height, width = image.shape[1:]
        entry = self.images[index]
        if (height, width) != (entry["height"], entry["width"]):
            annotated = f"{entry['width']}x{entry['height']}"
            return f"{self.pictures.name(index)} is {width}x{height}, and {annotated} in its annotations"
        return _scene(image, entries, self.category_ids)

    def _objects(self, index: int) -> list[dict[str, Any]]:
        begin = self.ends[index - 1] if index else 0
        return json.loads(self.texts[begin : self.ends[index]].tobytes())

    def _image(self, index: int) -> Tensor | str:
        from torchvision.transforms.v2.functional import pil_to_tensor

        try:
            with self.pictures.opened(index) as picture:
                # EXIF orientation is ignored, because the annotations refer to the pixels as stored.
                return pil_to_tensor(picture.convert("RGB"))
        except Exception as cause:  # decoders raise errors of many types for broken files
            return f"{self.pictures.name(index)} cannot be read ({reason(cause)})"


def described(root: Path, data_dir: Path) -> tuple[list[int], str] | None:
    """The numbers of images in both annotation files and a digest of the files; None if both are missing.

    The result is cached in the data folder until a file changes in size or ctime: reading COCO's files takes half a
    minute.

    Raises:
        ConfigError: if only one is there, or one is invalid.
    """
    files = [_annotated(root, part) for part in PARTS]
    if not any(file.exists() for file in files):
        return None
    stamps = [(str(f.resolve()), f.stat().st_size, f.stat().st_ctime_ns) for f in files if f.exists()]
    place = data_dir / "indexed" / f"coco-{hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]}.json"
    try:
        found = json.loads(place.read_bytes())
        return list(found["files"]), str(found["digest"])
    except (OSError, ValueError, LookupError, TypeError):
        counts = [len(annotations.read(file)["images"]) for file in files]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    file_cache.write(place, json.dumps({"files": counts, "digest": digest}).encode())
    return counts, digest


def load(dataset: DatasetSettings, root: Path, data_dir: Path) -> tuple[CocoScenes, CocoScenes]:
    """The training scenes, without images that have no objects, and the test scenes, or the subsets of both.

    Raises:
        ConfigError: naming what is missing or invalid.
    """
    if not root.is_dir():
        instead = "put annotations/, train2017/ and val2017/ there, or type dataset.root=FOLDER, "
        instead += "or set LOCALSL_DATA to the folder above it"
        raise ConfigError(
            [Problem("dataset.root", dataset.root, f"there is no folder {root.resolve()}", instead)]
        )
    wanted = {"train": dataset.train_subset, "test": dataset.test_subset}
    splits = [_split(root, part, dataset, wanted[part]) for part in PARTS]
    if splits[0].categories != splits[1].categories:
        raise error(root / "annotations", "has other categories for training than for test")
    decodable.checked([split.pictures for split in splits], None, data_dir)
    return splits[0], splits[1]


def _annotated(root: Path, part: str) -> Path:
    return root / "annotations" / f"instances_{PARTS[part]}.json"


def _split(root: Path, part: str, dataset: DatasetSettings, wanted: int | None) -> CocoScenes:
    file = _annotated(root, part)
    values = annotations.read(file)
    kinds = annotations.categories(values)
    if len(kinds) != dataset.num_classes:
        what = f"{file} has {len(kinds)} categories"
        raise ConfigError(
            [
                Problem(
                    "dataset.num_classes", dataset.num_classes, what, f"type dataset.num_classes={len(kinds)}"
                )
            ]
        )
    objects = annotations.objects(values)
    images = sorted(values["images"], key=lambda entry: entry["id"])
    if part == "train":
        images = [entry for entry in images if annotations.has_objects(objects[entry["id"]])]
    if not images:
        raise error(file, "has no image with an object")
    if wanted is not None and wanted > len(images):
        raise ConfigError([Problem(f"dataset.{part}_subset", wanted, f"there are {len(images)} such images")])
    images = [images[index] for index in subset(len(images), wanted or len(images)).tolist()]
    # Without an object, COCO's code returns a precision of -1.
    if part == "test" and all(other["iscrowd"] for entry in images for other in objects[entry["id"]]):
        what = "has no object that is not a crowd"
        if wanted is None:
            raise error(file, what)
        what = f"this subset of the test images {what}"
        raise ConfigError([Problem(f"dataset.{part}_subset", wanted, what, "type a larger number")])
    texts = [json.dumps(objects[entry["id"]]).encode() for entry in images]
    pictures = Pictures.of(root, dataset.image_size, _files(root, part, images))
    joined = np.frombuffer(b"".join(texts), dtype=np.uint8)
    return CocoScenes(pictures, images, kinds, joined, np.cumsum([len(text) for text in texts]))


def _files(
    root: Path, part: str, images: list[dict[str, Any]]
) -> Iterator[tuple[bytes, int, int, int, int, int]]:
    """The files of the images, in the form that `Pictures.of` takes.

    Raises:
        ConfigError: naming missing files.
    """
    folder = root / PARTS[part]
    if not folder.is_dir():
        raise error(folder, "is missing")
    with os.scandir(folder) as entries:
        statuses = {entry.name: entry.stat() for entry in entries if entry.is_file()}
    missing = [entry["file_name"] for entry in images if entry["file_name"] not in statuses]
    if missing:
        raise error(folder, f"lacks {len(missing)} of {len(images)} images: {some(missing)}")
    for entry in images:
        name, status = os.fsencode(f"{folder.name}/{entry['file_name']}"), statuses[entry["file_name"]]
        yield name, len(name), 0, status.st_size, status.st_ctime_ns, 0


def _scene(image: Tensor, entries: list[dict[str, Any]], category_ids: list[int]) -> Scene:
    """An image and its objects; boxes are clipped to the image, and boxes without area are left out."""
    height, width = image.shape[1:]
    boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2].clamp_(min=0, max=width)
    boxes[:, 1::2].clamp_(min=0, max=height)
    labels = torch.tensor(
        [category_ids.index(entry["category_id"]) + 1 for entry in entries], dtype=torch.int64
    )
    masks = [_mask(entry["segmentation"], height, width) for entry in entries]
    stacked = torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.uint8)
    has_area = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
    return Scene(image, boxes[has_area], labels[has_area], stacked[has_area])


def _mask(segmentation: Any, height: int, width: int) -> Tensor:
    """Decode polygons or a run-length encoding to a mask (height, width) by COCO's own code."""
    from pycocotools import mask as coding

    coded = segmentation
    if isinstance(segmentation, list):
        coded = coding.merge(coding.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        coded = coding.frPyObjects(segmentation, height, width)
    return torch.from_numpy(coding.decode(coded))
