"""COCO's annotation files: read, and checked before anything is trained on them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from localsl.core.settings import ConfigError, Problem, first_line

NAMED = 10  # wrong entries that are told by name
IN_AN_IMAGE = ("id", "file_name", "height", "width")
IN_AN_OBJECT = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")


def read(file: Path) -> dict[str, Any]:
    """The images, annotations and categories of a file.

    Raises:
        ConfigError: if it is not there, not whole, or its parts do not belong together.
    """
    try:
        values = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise wrong(file, "is not there") from None
    except (OSError, ValueError) as error:
        raise wrong(file, f"cannot be read ({first_line(error)})", "fetch it again") from None
    parts = ("images", "annotations", "categories")
    lacking = [p for p in parts if not isinstance(values, dict) or not isinstance(values.get(p), list)]
    if lacking:
        raise wrong(file, f"has no list of {', '.join(lacking)}", "it must be an instances_*.json of COCO's")
    found = list(_problems(values))
    if found:
        raise ConfigError([problem for what in found for problem in wrong(file, what).problems])
    return values


def categories(values: dict[str, Any]) -> dict[int, str]:
    """Names by ids, in the order of ids: labels 1, 2, ... are of the first, the second, ..."""
    named = {entry["id"]: str(entry.get("name", entry["id"])) for entry in values["categories"]}
    return dict(sorted(named.items()))


def objects(values: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """The annotations of each image, by its id; crowds included."""
    found: dict[int, list[dict[str, Any]]] = {entry["id"]: [] for entry in values["images"]}
    for entry in values["annotations"]:
        found[entry["image_id"]].append(entry)
    return found


def has_objects(entries: Iterable[dict[str, Any]]) -> bool:
    """Whether an image is trained on: torchvision's reference leaves out those without a box of over a pixel."""
    return any(min(entry["bbox"][2:]) > 1 for entry in entries)


def wrong(place: Path, what: str, instead: str = "") -> ConfigError:
    """Something wrong with a file or folder of the data set."""
    return ConfigError([Problem("dataset", "coco", f"{place} {what}", instead)])


def some(names: Iterable[Any]) -> str:
    """The first of many, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more


def _problems(values: dict[str, Any]) -> Iterator[str]:
    """What does not fit; of each kind once. The next kind is only looked for where entries are whole."""
    images, entries = values["images"], values["annotations"]
    kinds = [("image", images, IN_AN_IMAGE), ("annotation", entries, IN_AN_OBJECT)]
    kinds += [("category", values["categories"], ("id",))]
    broken = False
    for kind, listed, keys in kinds:
        for key in keys:
            lacking = [_told(entry, i) for i, entry in enumerate(listed) if _lacks(entry, key)]
            if lacking:
                broken = True
                yield f"has {len(lacking)} of kind {kind} without {key}: {some(lacking)}"
    if broken:
        return
    for kind, listed, _ in kinds:
        twice = [this for this, count in Counter(entry["id"] for entry in listed).items() if count > 1]
        if twice:
            yield f"has ids of kind {kind} that occur twice: {some(twice)}"
    known_images = {entry["id"] for entry in images}
    known_categories = {entry["id"] for entry in values["categories"]}
    for key, known in (("image_id", known_images), ("category_id", known_categories)):
        strange = [entry["id"] for entry in entries if entry[key] not in known]
        if strange:
            yield f"has {len(strange)} annotations whose {key} is none of the file's: {some(strange)}"
    shapeless = [entry["id"] for entry in entries if not entry.get("segmentation")]
    if shapeless:
        yield f"has {len(shapeless)} annotations without a segmentation: {some(shapeless)}"
    boxless = [entry["id"] for entry in entries if not _is_box(entry["bbox"])]
    if boxless:
        yield f"has {len(boxless)} annotations whose bbox is not four numbers: {some(boxless)}"
    if not entries:
        yield "has no annotations"


def _lacks(entry: Any, key: str) -> bool:
    return not isinstance(entry, dict) or entry.get(key) is None


def _told(entry: Any, index: int) -> str:
    return str(entry.get("id", f"number {index}")) if isinstance(entry, dict) else f"number {index}"


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(x, int | float) for x in value)
