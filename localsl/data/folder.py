"""Pictures in class folders: ROOT/train/<class>/* beside ROOT/test/<class>/* (or val/)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from stat import S_ISREG

from localsl.core.settings import ConfigError, Problem
from localsl.data.pictures import Pictures

# Files that file managers create; they are ignored, as are files whose names begin with a dot.
NO_PICTURES = {"Thumbs.db", "desktop.ini"}

# Suffixes that identify pictures in archives. In class folders every file counts as a picture.
SUFFIXES = {"jpg", "jpeg", "jpe", "jfif", "jp2", "j2k", "png", "apng", "webp", "avif", "bmp", "dib", "gif"}
SUFFIXES |= {"tga", "ppm", "pgm", "pbm", "pnm", "tif", "tiff"}

TEST = ("test", "val")  # names of the folder with the test pictures, in order of preference


def listed(root: Path, size: int) -> tuple[Pictures, Pictures]:
    """The training and the test split: every file that is not hidden counts as a picture, whatever its suffix.

    Raises:
        ConfigError: if the layout of the folder is wrong, or it cannot be read.
    """
    train, test = splits(root)
    names = classes(train)
    nested = _nested(train)
    if not names:
        raise error(
            root, f"{train} holds {_without_classes(train)}", f"put pictures into {train.name}/<class>/"
        )
    if len(names) == 1 and nested:
        what = f"{train} holds one folder, {names[0]}, with the folders {_some(nested)} in it"
        raise error(root, what, f"move these up into {train}: a class is a folder of {train.name}/")
    unknown = sorted(set(classes(test)) - set(names))
    if unknown:
        inside = _nested(test) if len(classes(test)) == 1 else []
        instead = f"{unknown[0]} holds the folders {_some(inside)}: move these up into {test}" if inside else ""
        raise error(root, f"{test} has classes that {train} lacks: {', '.join(unknown)}", instead)
    found = [Pictures.of(root, size, _rows(root, part, names)) for part in (train, test)]
    counts = found[0].targets.bincount(minlength=len(names)).tolist()
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        raise error(root, f"{train} has no pictures of {', '.join(empty)}", "add some, or remove the folder")
    if not len(found[1]):
        what = "no pictures in its class folders" if classes(test) else _without_classes(test)
        raise error(root, f"{test} holds {what}", f"put pictures into {test.name}/<class>/")
    return found[0], found[1]


def counts(root: Path) -> tuple[int, int]:
    """The numbers of training and of test files, counted from directory listings alone.

    Raises:
        ConfigError: if a split is missing, or a folder cannot be read.
    """
    parts = splits(root)
    names = classes(parts[0])
    train, test = (sum(1 for name in names for _ in _files(root, part / name)) for part in parts)
    return train, test


def splits(root: Path) -> tuple[Path, Path]:
    """The folders of the training and of the test pictures.

    Raises:
        ConfigError: if one of them is missing.
    """
    train = root / "train"
    if not root.is_dir():
        raise error(root, "there is no such folder", "type dataset.root=FOLDER for where it lies")
    places = [root / name for name in TEST if (root / name).is_dir()]
    if not train.is_dir() or not places:
        raise error(root, "must hold train/ and test/ (or val/)", _hint(root))
    # ImageNet's own test/ has no labels: a folder with pictures in known classes, its val/, is preferred.
    names = set(classes(train))
    labelled = (p for p in places for name in classes(p) if name in names and any(_files(root, p / name)))
    with_classes = (place for place in places if classes(place))
    return train, next(labelled, next(with_classes, places[0]))


def classes(part: Path) -> list[str]:
    """The names of the class folders, sorted.

    Raises:
        ConfigError: if one is a broken link, or the folder cannot be read.
    """
    found = []
    for entry in _entries(part.parent, part):
        if entry.is_dir():
            found.append(entry.name)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            what = f"{entry.path} is a broken link"
            raise error(part.parent, what, "link it to the class's folder, or remove it")
    return found


def has_pictures(root: Path) -> bool:
    """Whether ROOT/train holds class folders with pictures."""
    train = root / "train"
    if not train.is_dir():
        return False
    names = (entry.name for label in classes(train) for _, entry in _files(root, train / label))
    return any(name.rpartition(".")[2].lower() in SUFFIXES for name in names)


def loose_files(root: Path) -> str:
    """Describe the files that lie beside the class folders and are ignored; empty if there are none."""
    loose = [entry.path for part in splits(root) for entry in _entries(root, part) if not entry.is_dir()]
    known = [path for path in loose if path.rpartition(".")[2].lower() in {*SUFFIXES, "tar"}]
    if not known:
        return ""
    return f"ignoring {_files_text(len(known))} beside the class folders, such as {known[0]}"


def error(root: Path, what: str, instead: str = "") -> ConfigError:
    """An error about `dataset.root`, whose value is `root`."""
    return ConfigError([Problem("dataset.root", root, what, instead)])


def _entries(root: Path, place: Path | str) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden, sorted by name."""
    try:
        with os.scandir(place) as entries:
            found = [e for e in entries if e.name[0] != "." and e.name not in NO_PICTURES]
    except OSError as cause:
        what = f"{place} cannot be read ({cause.strerror})"
        raise error(root, what, "make it readable, or remove it") from None
    return sorted(found, key=attrgetter("name"))


def _files(
    root: Path, place: Path | str, below: str = "", seen: set[tuple[int, int]] | None = None
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files below a class folder with their paths relative to it, sorted folder by folder.

    A folder is visited once, however many links lead to it, since links may form cycles.
    """
    if seen is None:
        seen = {_inode(above) for above in Path(place).parents[:2]}
        if not os.path.isdir(place) or _inode(place) in seen:
            return
        seen.add(_inode(place))
    for entry in _entries(root, place):
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link to itself, which is reported as a file that cannot be decoded
            is_folder = False
        if not is_folder:
            yield below + entry.name, entry
        elif _inode(entry.path) not in seen:
            seen.add(_inode(entry.path))
            yield from _files(root, entry.path, f"{below}{entry.name}/", seen)


def _inode(place: Path | str) -> tuple[int, int]:
    status = os.stat(place)
    return status.st_dev, status.st_ino


def _rows(root: Path, part: Path, names: list[str]) -> Iterator[tuple[bytes, int, int, int, int, int]]:
    """The files of a split, in the form that `Pictures.of` takes."""
    for label, name in enumerate(names):
        class_folder = os.fsencode(f"{part.name}/{name}/")
        for below, entry in _files(root, part / name):
            try:
                status = entry.stat()
                size, stamp = status.st_size, status.st_ctime_ns
                if not S_ISREG(status.st_mode):  # reading a pipe or a socket could block forever
                    continue
            except OSError:  # a broken link, which is reported as a file that cannot be decoded
                size = stamp = 0
            path = class_folder + os.fsencode(below)
            yield path, len(path), 0, size, stamp, label


def _nested(part: Path) -> list[str]:
    """The folders inside the only folder of a split, if it holds nothing else: it is then one level too many."""
    names = classes(part)
    inside = _entries(part.parent, part / names[0]) if len(names) == 1 else []
    return [entry.name for entry in inside] if all(entry.is_dir() for entry in inside) else []


def _without_classes(part: Path) -> str:
    """Describe what a split without class folders holds."""
    count = len(_entries(part.parent, part))
    return f"{_files_text(count)} and no class folders" if count else "no class folders"


def _hint(root: Path) -> str:
    """How to correct `dataset.root`: a nearby folder that holds train/, or the layout that is needed."""
    if root.name in ("train", *TEST) and (root.parent / "train").is_dir():
        return f"type dataset.root={root.parent}"
    near = [entry.path for entry in _entries(root, root) if os.path.isdir(os.path.join(entry.path, "train"))]
    return f"type dataset.root={near[0]}" if near else "put train/<class>/*.png in it"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _files_text(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
