"""Reading and checking annotation files in COCO's format."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from localsl.core.settings import ConfigError, Problem, first_line

MAX_NAMED = 10  # invalid entries that a message names
LARGEST = 1e6  # coordinate in pixels; COCO's code overflows with much larger ones
# The keys of each list, and the words for their types.
IMAGE_KEYS = {"id": "an integer", "file_name": "a text", "height": "an integer", "width": "an integer"}
OBJECT_KEYS = {"id": "an integer", "image_id": "an integer", "category_id": "an integer"}
OBJECT_KEYS |= {"bbox": "four numbers", "area": "a number from 0 to 1e10", "iscrowd": "0 or 1"}


def read(file: Path) -> dict[str, Any]:
    """The images, annotations and categories of a file.

    Raises:
        ConfigError: if it is missing, incomplete or inconsistent.
    """
    try:
        values = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise error(file, "is missing") from None
    except (OSError, ValueError, RecursionError) as cause:  # the last by lists that are nested too deeply
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
    """Inconsistencies, one message for each kind.

    Keys that are missing or have a wrong type are reported alone, as other checks need them.
    """
    images, entries = values["images"], values["annotations"]
    lists = [("images", images, IMAGE_KEYS), ("annotations", entries, OBJECT_KEYS)]
    lists += [("categories", values["categories"], {"id": "an integer"})]
    wrong = [what for name, listed, keys in lists for what in _wrong_keys(name, listed, keys)]
    yield from wrong
    if wrong:
        return
    for name, listed, _ in lists:
        twice = [this for this, count in Counter(entry["id"] for entry in listed).items() if count > 1]
        if twice:
            yield f"has ids of {name} that occur twice: {some(twice)}"
    known_images = {entry["id"]: (entry["height"], entry["width"]) for entry in images}
    known_categories = {entry["id"] for entry in values["categories"]}
    for key, known in (("image_id", known_images), ("category_id", known_categories)):
        unknown = [entry["id"] for entry in entries if entry[key] not in known]
        if unknown:
            yield f"has {len(unknown)} annotations whose {key} is none of the file's: {some(unknown)}"
    unsegmented = [entry["id"] for entry in entries if not entry.get("segmentation")]
    if unsegmented:
        yield f"has {len(unsegmented)} annotations without a segmentation: {some(unsegmented)}"
    checked = [e for e in entries if e.get("segmentation") and e["image_id"] in known_images]
    invalid = [
        e["id"] for e in checked if not _is_segmentation(e["segmentation"], *known_images[e["image_id"]])
    ]
    if invalid:
        what = "is neither polygons nor a run-length encoding of the image's size"
        yield f"has {len(invalid)} annotations whose segmentation {what}: {some(invalid)}"
    if not entries:
        yield "has no annotations"


def _wrong_keys(name: str, listed: list[Any], keys: dict[str, str]) -> Iterator[str]:
    """Messages about keys that entries of a list lack, or whose values have a wrong type."""
    for key, kind in keys.items():
        without = [_label(entry, i) for i, entry in enumerate(listed) if _lacks(entry, key)]
        if without:
            yield f"has {len(without)} {name} without {key}: {some(without)}"
        wrong = [
            _label(entry, i)
            for i, entry in enumerate(listed)
            if not _lacks(entry, key) and not _IS[kind](entry[key])
        ]
        if wrong:
            yield f"has {len(wrong)} {name} whose {key} is not {kind}: {some(wrong)}"


def _lacks(entry: Any, key: str) -> bool:
    return not isinstance(entry, dict) or entry.get(key) is None


def _label(entry: Any, index: int) -> str:
    """The id of an entry, or its position if it has none."""
    this = entry.get("id") if isinstance(entry, dict) else None
    return str(this) if isinstance(this, int | str) else f"number {index}"


def _is_integer(value: Any) -> bool:
    return type(value) is int  # true and false are no numbers, here and below


def _are_numbers(values: Any) -> bool:
    """Whether the values are a list of numbers that can be coordinates."""
    # Comparisons are false for the NaN that Python reads from JSON.
    return (
        isinstance(values, list)
        and set(map(type, values)) <= {int, float}
        and all(-LARGEST <= value <= LARGEST for value in values)
    )


def _is_segmentation(value: Any, height: int, width: int) -> bool:
    """Whether a value is a list of polygons, or a run-length encoding of a mask of this size."""
    if isinstance(value, list):
        # COCO's code takes four numbers at the start for a box; a line further on covers no pixel.
        return all(p and _are_numbers(p) and len(p) % 2 == 0 for p in value) and len(value[0]) >= 6
    if not isinstance(value, dict) or value.get("size") != [height, width]:
        return False
    counts = value.get("counts")
    if isinstance(counts, str):
        counts = _counts(counts)
    if not isinstance(counts, list) or not all(_is_integer(count) and count >= 0 for count in counts):
        return False
    return len(counts) > 0 and sum(counts) == height * width


def _counts(text: str) -> list[int] | None:
    """The counts that COCO's code reads from the text of a compressed encoding; None if it cannot be read.

    A character holds five bits, the lowest ones first, and whether more follow. From the fourth count on, the text
    has differences to the count before the last one. COCO's code does not check that the counts fit the mask.
    """
    found, value, bits = list[int](), 0, 0
    for digit in (ord(character) - 48 for character in text):
        if not 0 <= digit < 64:
            return None
        value |= (digit & 31) << bits
        bits += 5
        if digit & 32:
            continue
        if digit & 16:  # the sign
            value -= 1 << bits
        found.append(value + (found[-2] if len(found) > 2 else 0))
        value = bits = 0
    return None if bits else found


# For each type of a key, a function that says whether a value has it. COCO's code ignores objects with a larger area.
_IS: dict[str, Callable[[Any], bool]] = {
    "an integer": _is_integer,
    "a text": lambda value: isinstance(value, str),
    "a number from 0 to 1e10": lambda value: type(value) in (int, float) and 0 <= value <= 1e10,
    "0 or 1": lambda value: value in (0, 1),
    "four numbers": lambda value: _are_numbers(value) and len(value) == 4,
}
