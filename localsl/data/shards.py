"""Pictures in WebDataset archives.

Archives are ROOT/train/*.tar and ROOT/test/*.tar (or val/), or lie in ROOT with "train", and "test" or "val", in
their names. In an archive a picture KEY.jpg (or another format) has its class, an integer from 0, in KEY.cls. KEY may
contain dots, and the picture may be named KEY.image.jpg.

Unlike WebDataset, archives are not streamed: every picture is located once and then read by its offset, at the cost
of a seek per picture. This allows a full shuffle, exact shares for several processes and resuming at any step, and
gives the same batches as the same pictures in folders.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from localsl.data import file_cache, folder
from localsl.data.folder import error
from localsl.data.pictures import Pictures

MAX_CLASSES = 2**20  # the largest dataset.num_classes
MAX_LABEL = 2**31 - 1  # the largest label that a KEY.cls may hold

UNLABELLED = -1  # the class of a picture without a label

BLOCK = 512  # bytes; an archive ends with blocks of zeros, which another archive may follow

Row = tuple[bytes, int, int, int, int, int]  # of `Pictures.of`


def found(root: Path) -> tuple[list[Path], list[list[Path]]] | None:
    """The archives of training pictures, and a list of archives for each candidate test split, sorted.

    None if there are no archives, or if there are class folders with pictures, which take precedence.
    """
    flat = _archives(root)
    for train, *tests in (
        [_archives(root / name) for name in ("train", *folder.TEST)],
        [[path for path in flat if _split_name(path) == part] for part in ("train", *folder.TEST)],
    ):
        if train:
            return None if folder.has_pictures(root) else (train, [paths for paths in tests if paths])
    return None


def listed(root: Path, size: int, data_dir: Path, warn: bool = True) -> tuple[Pictures, Pictures]:
    """The training and the test split, in the order of the archives and of their members.

    Locating the pictures takes 40 us per file, two minutes for ImageNet. The index is cached in `data_dir` until an
    archive changes.

    Args:
        warn: whether to warn of pictures that are not used.

    Raises:
        ConfigError: if a split has no archives, or if an archive is damaged or lacks labels.
    """
    archives = found(root)
    assert archives is not None
    if not archives[1]:
        raise error(root, "holds no test archives", "put test/*.tar or val/*.tar beside train/*.tar")
    train = _split(root, size, archives[0], data_dir, warn)
    tests = [_split(root, size, paths, data_dir, warn) for paths in archives[1]]
    # ImageNet's own test/ has no labels: a split with labels, its val/, is preferred.
    test = next((split for split in tests if bool((split.targets != UNLABELLED).any())), tests[0])
    for which, split in (("training", train), ("test", test)):
        if not len(split):
            raise error(root, f"its archives hold no {which} pictures", "KEY.jpg must stand beside KEY.cls")
        unlabelled = (split.targets == UNLABELLED).nonzero().flatten()
        if len(unlabelled):
            name = f"{root}/{split.name(int(unlabelled[0]))}"
            what = f"{name} has no class, which is an integer in KEY.cls beside it"
            raise error(root, what, f"{len(unlabelled)} of {len(split)} pictures lack one")
    return train, test


def classes(root: Path, targets: Tensor) -> int:
    """The number of classes, from labels that are counted from 0.

    Raises:
        ConfigError: if a class below the highest has no pictures.
    """
    present = targets.unique()
    count = int(present[-1]) + 1
    if len(present) < count:
        first = int((present != torch.arange(len(present))).nonzero()[0])
        what = f"labels of training pictures run from {int(present[0])} to {count - 1}, and no picture has "
        others = f" or {count - len(present) - 1} others" if count - len(present) > 1 else ""
        anyway = f", or type dataset.num_classes={count} to keep it" if count <= MAX_CLASSES else ""
        raise error(root, f"{what}class {first}{others}", f"count classes from 0 without gaps{anyway}")
    return count


def _archives(place: Path) -> list[Path]:
    return sorted(path for path in place.glob("*.tar") if not path.name.startswith("."))


def _split_name(path: Path) -> str | None:
    return next((part for part in ("train", *folder.TEST) if part in path.name.lower()), None)


def _split(root: Path, size: int, paths: list[Path], data_dir: Path, warn: bool) -> Pictures:
    statuses = [(str(path.relative_to(root)), path.stat()) for path in paths]
    stamps = [(name, status.st_size, status.st_mtime_ns, status.st_ctime_ns) for name, status in statuses]
    digest = hashlib.sha256(repr((str(root.resolve()), stamps)).encode()).hexdigest()[:16]
    file = data_dir / "indexed" / f"{digest}.npz"
    with file_cache.lock(file):
        index = _read_index(file)
        if index is None:
            unused: list[str] = []
            found = Pictures.of(root, size, (row for path in paths for row in _rows(root, path, unused)))
            index = found.where, found.targets, unused
            packed = io.BytesIO()
            np.savez_compressed(packed, where=index[0], targets=index[1].numpy(), unused=np.array(unused, "U"))
            file_cache.write(file, packed.getvalue())
    where, targets, unused = index
    if unused and warn:
        what = f"{len(unused)} pictures in archives, such as {unused[0]}, are not used: their keys have another"
        print(f"warning: {what}, KEY.jpg beside KEY.cls", file=sys.stderr)
    return Pictures(root, size, where, targets)


def _read_index(file: Path) -> tuple[np.ndarray, Tensor, list[str]] | None:
    try:
        with np.load(file) as arrays:
            return arrays["where"], torch.from_numpy(arrays["targets"]), arrays["unused"].tolist()
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):  # missing or incomplete
        return None


def _rows(root: Path, path: Path, unused: list[str]) -> Iterator[Row]:
    """The pictures of an archive with their classes, UNLABELLED for those without one.

    Args:
        unused: receives the names of pictures beside the picture of their key, such as KEY.mask.png beside KEY.jpg.

    Raises:
        ConfigError: if the archive is damaged, a class has no picture, or a key has two pictures.
    """
    archive = os.fsencode(path.relative_to(root))
    stamp = path.stat().st_ctime_ns
    pictures: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for tar, member in _members(file):
                key, _, suffix = member.name.rpartition(".")
                base = key.rpartition("/")[2]
                if member.isdir() or not base or base.startswith("."):
                    continue
                if not member.isfile() and suffix.lower() in {*folder.SUFFIXES, "cls"}:
                    what = f"{path}: {member.name} is a link to {member.linkname}, not a file"
                    raise error(root, what, "pack the files themselves: tar --hard-dereference --dereference")
                if suffix.lower() in folder.SUFFIXES:
                    if key in pictures:
                        raise error(root, f"{path} has two pictures {key}", "give them different keys")
                    pictures[key] = member
                elif suffix.lower() == "cls":
                    content = tar.extractfile(member)
                    assert content is not None
                    labels[key] = _label(root, f"{path}/{member.name}", content.read(64))
    except (tarfile.TarError, OSError, EOFError) as cause:
        raise error(root, f"{path} is damaged ({cause})", "copy it again") from None
    picture_of: dict[str, str] = {}  # by key
    for picture in pictures:
        key = _key(picture, labels)
        if key in pictures and key != picture:
            unused.append(f"{path}/{pictures[picture].name}")
        elif key in picture_of:
            two = f"{pictures[picture_of[key]].name} and {pictures[picture].name}"
            raise error(root, f"{path} has two pictures {key}: {two}", "give them different keys")
        else:
            picture_of[key] = picture
    alone = sorted(labels.keys() - picture_of.keys())
    if alone and pictures:
        formats = ", ".join(sorted(folder.SUFFIXES))
        what = f"{path}: {alone[0]}.cls has no picture beside it, whose suffix may be {formats}"
        raise error(root, what, f"{len(alone)} of {len(labels)} .cls files have none")
    for key, picture in picture_of.items():
        member = pictures[picture]
        name = archive + b"/" + os.fsencode(member.name)
        yield name, len(archive), member.offset_data, member.size, stamp, labels.get(key, UNLABELLED)


def _key(picture: str, labels: dict[str, int]) -> str:
    """The key of a picture: its name without the suffix, or up to an earlier dot if that is what has a label."""
    key, base = picture, len(picture) - len(picture.rpartition("/")[2])
    while key not in labels:
        dot = key.rfind(".", base + 1)
        if dot < 0:
            return picture
        key = key[:dot]
    return key


def _label(root: Path, name: str, content: bytes) -> int:
    text = content.decode("ascii", "replace").strip()
    if not text.isdecimal():
        return UNLABELLED
    if int(text) > MAX_LABEL:
        raise error(root, f"{name} holds {text}, which is no class", "a class is an integer from 0")
    return int(text)


def _members(file: BinaryIO) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of an archive, or of several archives that were joined by `cat`.

    Raises:
        tarfile.TarError, OSError, EOFError: if it is damaged.
    """
    begin: int | None = 0
    while begin is not None:
        file.seek(begin)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                yield tar, member
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # tarfile would keep all of them
            if tar.offset == begin == _next(file, begin):  # tarfile treats unreadable data as the end
                raise tarfile.ReadError(f"the data from byte {begin} on are not part of an archive")
            begin = _next(file, tar.offset)


def _next(file: BinaryIO, end: int) -> int | None:
    """The offset at which the next archive begins after one that ended at `end`; None if only zeros follow."""
    file.seek(end)
    while block := file.read(BLOCK):
        if block.strip(b"\0"):
            return end
        end += len(block)
    return None
