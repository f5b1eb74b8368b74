"""Pictures in class folders: ROOT/train/<class>/* beside ROOT/test/<class>/* (or val/)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from stat import S_ISREG

from localsl.core.settings import ConfigError, Problem
from localsl.data.pictures import Pictures

# Files of file managers; so are those whose names begin with a dot.
NO_PICTURES = {"Thumbs.db", "desktop.ini"}

# What the names of pictures end with: in archives that tells them from the rest, in class folders it need not.
SUFFIXES = {"jpg", "jpeg", "jpe", "jfif", "jp2", "j2k", "png", "apng", "webp", "avif", "bmp", "dib", "gif"}
SUFFIXES |= {"tga", "ppm", "pgm", "pbm", "pnm", "tif", "tiff"}

TEST = ("test", "val")  # names of the folder of test pictures, in order of preference


def listed(root: Path, size: int) -> tuple[Pictures, Pictures]:
    """Both splits, every file that is not hidden taken for a picture, whatever its name ends with.

    Raises:
        ConfigError: if the folder is not laid out as it should be, or cannot be read.
    """
    train, test = splits(root)
    names = classes(train)
    nested = _nested(train)
    if not names:
        raise error(root, f"{train} holds {_loose(train)}", f"put pictures into {train.name}/<class>/")
    if len(names) == 1 and nested:
        what = f"{train} holds one folder, {names[0]}, with the folders {_some(nested)} in it"
        raise error(root, what, f"move these up into {train}: a class is a folder of {train.name}/")
    strange = sorted(set(classes(test)) - set(names))
    if strange:
        below = _nested(test) if len(classes(test)) == 1 else []
        instead = f"{strange[0]} holds the folders {_some(below)}: move these up into {test}" if below else ""
        raise error(root, f"{test} has classes that {train} lacks: {', '.join(strange)}", instead)
    found = [Pictures.of(root, size, _lines(root, part, names)) for part in (train, test)]
    counts = found[0].targets.bincount(minlength=len(names)).tolist()
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        raise error(root, f"{train} has no pictures of {', '.join(empty)}", "add some, or remove the folder")
    if not len(found[1]):
        what = "no pictures in its class folders" if classes(test) else _loose(test)
        raise error(root, f"{test} holds {what}", f"put pictures into {test.name}/<class>/")
    return found[0], found[1]


def counts(root: Path) -> tuple[int, int]:
    """The number of training and of test files, without a look at each.

    Raises:
        ConfigError: as `listed` does.
    """
    parts = splits(root)
    names = classes(parts[0])
    train, test = (sum(1 for name in names for _ in _files(root, part / name)) for part in parts)
    return train, test


def splits(root: Path) -> tuple[Path, Path]:
    """The folders of training and of test pictures.

    Raises:
        ConfigError: if one of them is not there.
    """
    train = root / "train"
    if not root.is_dir():
        raise error(root, "there is no such folder", "type dataset.root=FOLDER for where it lies")
    places = [root / name for name in TEST if (root / name).is_dir()]
    if not train.is_dir() or not places:
        raise error(root, "must hold train/ and test/ (or val/)", _elsewhere(root))
    # ImageNet's own test/, in which nothing is labelled, stands back behind its val/.
    names = set(classes(train))
    labelled = (p for p in places for name in classes(p) if name in names and any(_files(root, p / name)))
    with_classes = (place for place in places if classes(place))
    return train, next(labelled, next(with_classes, places[0]))


def classes(part: Path) -> list[str]:
    """The names of class folders, sorted.

    Raises:
        ConfigError: if one is a link to nowhere, or the folder cannot be read.
    """
    found = []
    for entry in _shown(part.parent, part):
        if entry.is_dir():
            found.append(entry.name)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            what = f"{entry.path} is a link to nowhere"
            raise error(part.parent, what, "link it to the class's folder, or remove it")
    return found


def has_pictures(root: Path) -> bool:
    """Whether ROOT/train holds class folders with pictures."""
    train = root / "train"
    if not train.is_dir():
        return False
    names = (entry.name for label in classes(train) for _, entry in _files(root, train / label))
    return any(name.rpartition(".")[2].lower() in SUFFIXES for name in names)


def beside(root: Path) -> str:
    """In words, the files that lie beside the class folders and are not read; empty where there are none."""
    loose = [entry.path for part in splits(root) for entry in _shown(root, part) if not entry.is_dir()]
    known = [path for path in loose if path.rpartition(".")[2].lower() in {*SUFFIXES, "tar"}]
    if not known:
        return ""
    return f"{_files_in_words(len(known))} beside the class folders, such as {known[0]}, left out"


def error(root: Path, what: str, instead: str = "") -> ConfigError:
    """Something wrong with the folder."""
    return ConfigError([Problem("dataset.root", root, what, instead)])


def _shown(root: Path, place: Path | str) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted, without what is hidden."""
    try:
        with os.scandir(place) as entries:
            found = [e for e in entries if e.name[0] != "." and e.name not in NO_PICTURES]
    except OSError as broken:
        what = f"{place} cannot be read ({broken.strerror})"
        raise error(root, what, "let yourself read it, or remove it") from None
    return sorted(found, key=attrgetter("name"))


def _files(
    root: Path, place: Path | str, below: str = "", seen: set[tuple[int, int]] | None = None
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files below a class folder with their paths from there, sorted folder by folder.

    A folder counts once, however many links lead to it: links may go in circles.
    """
    if seen is None:
        seen = {_is(above) for above in Path(place).parents[:2]}
        if not os.path.isdir(place) or _is(place) in seen:
            return
        seen.add(_is(place))
    for entry in _shown(root, place):
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link to itself: told with the broken files
            is_folder = False
        if not is_folder:
            yield below + entry.name, entry
        elif _is(entry.path) not in seen:
            seen.add(_is(entry.path))
            yield from _files(root, entry.path, f"{below}{entry.name}/", seen)


def _is(place: Path | str) -> tuple[int, int]:
    status = os.stat(place)
    return status.st_dev, status.st_ino


def _lines(root: Path, part: Path, names: list[str]) -> Iterator[tuple[bytes, int, int, int, int, int]]:
    for label, name in enumerate(names):
        above = os.fsencode(f"{part.name}/{name}/")
        for below, entry in _files(root, part / name):
            try:
                status = entry.stat()
                size, stamp = status.st_size, status.st_ctime_ns
                if not S_ISREG(status.st_mode):  # a pipe or socket, which could be waited for for ever
                    continue
            except OSError:  # a link to nowhere: told with the broken ones
                size = stamp = 0
            path = above + os.fsencode(below)
            yield path, len(path), 0, size, stamp, label


def _nested(part: Path) -> list[str]:
    """The folders in the only folder of a split that holds nothing else: it is one too many."""
    names = classes(part)
    inside = _shown(part.parent, part / names[0]) if len(names) == 1 else []
    return [entry.name for entry in inside] if all(entry.is_dir() for entry in inside) else []


def _loose(part: Path) -> str:
    count = len(_shown(part.parent, part))
    return f"{_files_in_words(count)} and no class folders" if count else "no class folders"


def _elsewhere(root: Path) -> str:
    """Where a folder with train/ is, if it is near; else what to do."""
    if root.name in ("train", *TEST) and (root.parent / "train").is_dir():
        return f"type dataset.root={root.parent}"
    near = [entry.path for entry in _shown(root, root) if os.path.isdir(os.path.join(entry.path, "train"))]
    return f"type dataset.root={near[0]}" if near else "put train/<class>/*.png in it"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _files_in_words(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
