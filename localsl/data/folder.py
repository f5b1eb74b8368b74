"""Pictures in class folders: ROOT/train/<class>/* beside ROOT/test/<class>/* (or val/)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from localsl.core.settings import ConfigError, Problem
from localsl.data.pictures import Pictures

# Files of file managers; so are those whose names begin with a dot.
NO_PICTURES = {"Thumbs.db", "desktop.ini"}


def contents(root: Path) -> tuple[list[str], list[int]]:
    """Class names, sorted, and the number of training and of test files.

    Raises:
        ConfigError: if the folder is not laid out as it should be.
    """
    train, test = _splits(root)
    classes = _classes(train)
    if not classes:
        raise error(root, f"{train} holds no class folders", "put train/<class>/*.png in it")
    strange = sorted(set(_classes(test)) - set(classes))
    if strange:
        raise error(root, f"{test} has classes that {train} lacks: {', '.join(strange)}")
    counts = {part: [len(_files(part / name)) for name in classes] for part in (train, test)}
    empty = [name for name, count in zip(classes, counts[train], strict=True) if not count]
    if empty:
        raise error(root, f"{train} has no pictures of {', '.join(empty)}", "add some, or remove the folder")
    if not sum(counts[test]):
        raise error(root, f"{test} holds no pictures", f"put {test.name}/<class>/*.png in it")
    return classes, [sum(counts[part]) for part in (train, test)]


def listed(root: Path, size: int) -> tuple[Pictures, Pictures]:
    """Both splits, every file that is not hidden taken for a picture, whatever its name ends with.

    Raises:
        ConfigError: if the folder is not laid out as it should be.
    """
    classes, _ = contents(root)
    train, test = (Pictures.of(root, size, _lines(root, part, classes)) for part in _splits(root))
    return train, test


def error(root: Path, what: str, instead: str = "") -> ConfigError:
    """Something wrong with the folder."""
    return ConfigError([Problem("dataset.root", root, what, instead)])


def _splits(root: Path) -> tuple[Path, Path]:
    train = root / "train"
    if not root.is_dir():
        raise error(root, "there is no such folder")
    # ImageNet's own test/, in which nothing is labelled, stands back behind its val/.
    places = [root / name for name in ("test", "val") if (root / name).is_dir()]
    test = next((place for place in places if _classes(place)), places[0] if places else None)
    if not train.is_dir() or test is None:
        raise error(root, "must hold train/ and test/ (or val/)", "put train/<class>/*.png in it")
    return train, test


def _classes(part: Path) -> list[str]:
    with os.scandir(part) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _files(place: Path) -> list[str]:
    """The paths below a class folder, sorted folder by folder."""
    found = []
    for path, folders, names in os.walk(place, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(path, place)
        shown = (name for name in names if not name.startswith(".") and name not in NO_PICTURES)
        found += [name if below == "." else f"{below}/{name}" for name in shown]
    return sorted(found, key=lambda name: name.split("/"))


def _lines(root: Path, part: Path, classes: list[str]) -> Iterator[tuple[bytes, int, int, int, int, int]]:
    for label, folder in enumerate(classes):
        for below in _files(part / folder):
            name = f"{part.name}/{folder}/{below}"
            try:
                status = (root / name).stat()
                size, stamp = status.st_size, status.st_mtime_ns
            except OSError:  # a link to nowhere: told with the broken ones
                size = stamp = 0
            path = os.fsencode(name)
            yield path, len(path), 0, size, stamp, label
