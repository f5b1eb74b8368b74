"""Reading and checking annotation files in COCO's format."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from localsl.core.settings import ConfigError, Problem, first_line

MAX_NAMED = 10  # invalid entries that a message names
IMAGE_KEYS = ("id", "file_name", "height", "width")
OBJECT_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")


def read(file: Path) -> dict[str, Any]:
    """The images, annotations and categories of a file.

    Raises:
        ConfigError: if it is missing, incomplete or inconsistent.
    """
    try:
        values = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise error(file, "is missing") from None
    except (OSError, ValueError) as cause:
        raise error(file, f"cannot be read ({first_line(cause)})", "download it again") from None
    parts = ("images", "annotations", "categories")
    missing = [p for p in parts if not isinstance(values, dict) or not isinstance(values.get(p), list)]
    if missing:
        raise error(file, f"has no list of {', '.join(missing)}", "it must have the format of instances_*.json")
    found = list(_problems(values))
    if found:
        raise ConfigError([problem for what in found for problem in error(file, what).problems])
    return values


def categories(values: dict[str, Any]) -> dict[int, str]:
    """The names of the categories by id, sorted by id; labels 1, 2, ... number them in this order."""
    named = {entry["id"]: str(entry.get("name", entry["id"])) for entry in values["categories"]}
    return dict(sorted(named.items()))


def objects(values: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """The annotations of each image by the image's id, crowds included."""
    found: dict[int, list[dict[str, Any]]] = {entry["id"]: [] for entry in values["images"]}
    for entry in values["annotations"]:
        found[entry["image_id"]].append(entry)
    return found


def has_objects(entries: Iterable[dict[str, Any]]) -> bool:
    """Whether an image with these annotations is trained on.

    As in torchvision's reference, it needs a box of more than one pixel in both directions.
    """
    return any(min(entry["bbox"][2:]) > 1 for entry in entries)


def error(place: Path, what: str, instead: str = "") -> ConfigError:
    """An error about a file or folder of the data set."""
    return ConfigError([Problem("dataset", "coco", f"{place} {what}", instead)])


def some(names: Iterable[Any]) -> str:
    """The first `MAX_NAMED` of the names, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - MAX_NAMED} more" if len(listed) > MAX_NAMED else ""
    return ", ".join(listed[:MAX_NAMED]) + more


def _problems(values: dict[str, Any]) -> Iterator[str]:
    """Inconsistencies, one message for each kind; missing keys are reported alone, as other checks need them."""
    images, entries = values["images"], values["annotations"]
    lists = [("images", images, IMAGE_KEYS), ("annotations", entries, OBJECT_KEYS)]
    lists += [("categories", values["categories"], ("id",))]
    incomplete = False
    for name, listed, keys in lists:
        for key in keys:
            without = [_label(entry, i) for i, entry in enumerate(listed) if _lacks(entry, key)]
            if without:
                incomplete = True
                yield f"has {len(without)} {name} without {key}: {some(without)}"
    if incomplete:
        return
    for name, listed, _ in lists:
        twice = [this for this, count in Counter(entry["id"] for entry in listed).items() if count > 1]
        if twice:
            yield f"has ids of {name} that occur twice: {some(twice)}"
    known_images = {entry["id"] for entry in images}
    known_categories = {entry["id"] for entry in values["categories"]}
    for key, known in (("image_id", known_images), ("category_id", known_categories)):
        unknown = [entry["id"] for entry in entries if entry[key] not in known]
        if unknown:
            yield f"has {len(unknown)} annotations whose {key} is none of the file's: {some(unknown)}"
    unsegmented = [entry["id"] for entry in entries if not entry.get("segmentation")]
    if unsegmented:
        yield f"has {len(unsegmented)} annotations without a segmentation: {some(unsegmented)}"
    invalid_boxes = [entry["id"] for entry in entries if not _is_box(entry["bbox"])]
    if invalid_boxes:
        yield f"has {len(invalid_boxes)} annotations whose bbox is not four numbers: {some(invalid_boxes)}"
    if not entries:
        yield "has no annotations"


def _lacks(entry: Any, key: str) -> bool:
    return not isinstance(entry, dict) or entry.get(key) is None


def _label(entry: Any, index: int) -> str:
    return str(entry.get("id", f"number {index}")) if isinstance(entry, dict) else f"number {index}"


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(x, int | float) for x in value)
