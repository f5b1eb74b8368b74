"""Pictures in WebDataset archives: ROOT/train/*.tar beside ROOT/test/*.tar (or val/), or all of them in ROOT,
where their names hold "train", and "test" or "val". KEY.jpg, or another picture, stands beside KEY.cls with its
class, a whole number from 0; KEY may have dots in it, and the picture may be KEY.image.jpg.

Archives are not streamed, as WebDataset does: every picture's place in them is looked up once, and it is read
from there. So all pictures are shuffled, the parts of several processes are exact, an epoch goes on at any
step, and the batches are those of the same pictures in folders. It costs a seek a picture.
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

from localsl.data import folder, kept
from localsl.data.folder import error
from localsl.data.pictures import Pictures

# As many classes as dataset.num_classes may be, and labels that a file may hold at all.
MOST, LARGEST = 2**20, 2**31 - 1

UNLABELLED = -1  # the class of a picture without one, among what is remembered

# The end of an archive is two blocks of zeros, up to which more archives may follow.
BLOCK = 512

Line = tuple[bytes, int, int, int, int, int]


def found(root: Path) -> tuple[list[Path], list[list[Path]]] | None:
    """The archives of training pictures, and those of test pictures by folder or name, sorted.

    None where there are no archives, or class folders with pictures that count instead.
    """
    beside = _archives(root)
    for train, *tests in (
        [_archives(root / name) for name in ("train", *folder.TEST)],
        [[path for path in beside if _meant(path) == part] for part in ("train", *folder.TEST)],
    ):
        if train:
            return None if folder.has_pictures(root) else (train, [paths for paths in tests if paths])
    return None


def listed(root: Path, size: int, data_dir: Path, told: bool = True) -> tuple[Pictures, Pictures]:
    """Both splits, in the order of names and archives.

    What was looked up is remembered in `data_dir` until an archive changes: 40 us a file, two minutes for
    ImageNet.

    Args:
        told: whether to print which pictures are not used.

    Raises:
        ConfigError: if there are no archives of one of them, or one is damaged or lacks labels.
    """
    archives = found(root)
    assert archives is not None
    if not archives[1]:
        raise error(root, "holds no archives for test", "put test/*.tar or val/*.tar beside train/*.tar")
    train = _split(root, size, archives[0], data_dir, told)
    tests = [_split(root, size, paths, data_dir, told) for paths in archives[1]]
    # ImageNet's own test/, in which nothing is labelled, stands back behind its val/.
    test = next((split for split in tests if bool((split.targets != UNLABELLED).any())), tests[0])
    for which, split in (("training", train), ("test", test)):
        if not len(split):
            raise error(root, f"its archives hold no {which} pictures", "KEY.jpg must stand beside KEY.cls")
        unlabelled = (split.targets == UNLABELLED).nonzero().flatten()
        if len(unlabelled):
            name = f"{root}/{split.name(int(unlabelled[0]))}"
            what = f"{name} has no class, a whole number in KEY.cls beside it"
            raise error(root, what, f"{len(unlabelled)} of {len(split)} pictures lack one")
    return train, test


def classes(root: Path, targets: Tensor) -> int:
    """As many as labels tell, which are counted from 0.

    Raises:
        ConfigError: if there are classes below the highest that no picture has.
    """
    present = targets.unique()
    count = int(present[-1]) + 1
    if len(present) < count:
        first = int((present != torch.arange(len(present))).nonzero()[0])
        what = f"labels of training pictures run from {int(present[0])} to {count - 1}, and no picture has "
        others = f" or {count - len(present) - 1} others" if count - len(present) > 1 else ""
        anyway = f", or type dataset.num_classes={count} for a network that has it" if count <= MOST else ""
        raise error(root, f"{what}class {first}{others}", f"count classes from 0 without gaps{anyway}")
    return count


def _archives(place: Path) -> list[Path]:
    return sorted(path for path in place.glob("*.tar") if not path.name.startswith("."))


def _meant(path: Path) -> str | None:
    return next((part for part in ("train", *folder.TEST) if part in path.name.lower()), None)


def _split(root: Path, size: int, paths: list[Path], data_dir: Path, told: bool) -> Pictures:
    statuses = [(str(path.relative_to(root)), path.stat()) for path in paths]
    stamps = [(name, status.st_size, status.st_mtime_ns, status.st_ctime_ns) for name, status in statuses]
    digest = hashlib.sha256(repr((str(root.resolve()), stamps)).encode()).hexdigest()[:16]
    file = data_dir / "indexed" / f"{digest}.npz"
    with kept.alone(file):
        index = _remembered(file)
        if index is None:
            unused: list[str] = []
            made = Pictures.of(root, size, (line for path in paths for line in _lines(root, path, unused)))
            index = made.where, made.targets, unused
            packed = io.BytesIO()
            np.savez_compressed(packed, where=index[0], targets=index[1].numpy(), unused=np.array(unused, "U"))
            kept.write(file, packed.getvalue())
    where, targets, unused = index
    if unused and told:
        what = f"{len(unused)} pictures in archives, such as {unused[0]}, are not used: their keys have another"
        print(f"warning: {what}, KEY.jpg beside KEY.cls", file=sys.stderr)
    return Pictures(root, size, where, targets)


def _remembered(file: Path) -> tuple[np.ndarray, Tensor, list[str]] | None:
    try:
        with np.load(file) as arrays:
            return arrays["where"], torch.from_numpy(arrays["targets"]), arrays["unused"].tolist()
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):  # not there, or not whole
        return None


def _lines(root: Path, path: Path, unused: list[str]) -> Iterator[Line]:
    """The pictures of an archive with their classes, UNLABELLED where they have none.

    Args:
        unused: gets those beside another picture of the same key, such as KEY.mask.png beside KEY.jpg.

    Raises:
        ConfigError: if it is damaged, a class has no picture beside it, or a key has two pictures.
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
                    what = f"{path}: {member.name} is no file but a link to {member.linkname}"
                    raise error(root, what, "pack the files themselves: tar --hard-dereference --dereference")
                if suffix.lower() in folder.SUFFIXES:
                    if key in pictures:
                        raise error(root, f"{path} has two pictures {key}", "name them apart")
                    pictures[key] = member
                elif suffix.lower() == "cls":
                    content = tar.extractfile(member)
                    assert content is not None
                    labels[key] = _label(root, f"{path}/{member.name}", content.read(64))
    except (tarfile.TarError, OSError, EOFError) as broken:
        raise error(root, f"{path} is damaged ({broken})", "copy it again") from None
    taken: dict[str, str] = {}
    for picture in pictures:
        key = _key(picture, labels)
        if key in pictures and key != picture:
            unused.append(f"{path}/{pictures[picture].name}")
        elif key in taken:
            two = f"{pictures[taken[key]].name} and {pictures[picture].name}"
            raise error(root, f"{path} has two pictures {key}: {two}", "name them apart")
        else:
            taken[key] = picture
    alone = sorted(labels.keys() - taken.keys())
    if alone and pictures:
        what = f"{path}: {alone[0]}.cls has no picture beside it, of {', '.join(sorted(folder.SUFFIXES))}"
        raise error(root, what, f"so have {len(alone)} of {len(labels)} classes")
    for key, picture in taken.items():
        member = pictures[picture]
        name = archive + b"/" + os.fsencode(member.name)
        yield name, len(archive), member.offset_data, member.size, stamp, labels.get(key, UNLABELLED)


def _key(picture: str, labels: dict[str, int]) -> str:
    """The key whose class is a picture's: its name without the suffix, or up to a dot before."""
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
    if int(text) > LARGEST:
        raise error(root, f"{name} holds {text}, which is no class", "a class is a whole number from 0")
    return int(text)


def _members(file: BinaryIO) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """What an archive holds, or several that were joined by `cat`.

    Raises:
        tarfile.TarError, OSError, EOFError: if it is damaged.
    """
    begin: int | None = 0
    while begin is not None:
        file.seek(begin)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                yield tar, member
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # it would keep them all
            if tar.offset == begin == _next(file, begin):  # tarfile takes what it cannot read for an end
                raise tarfile.ReadError(f"what begins at byte {begin} is no part of an archive")
            begin = _next(file, tar.offset)


def _next(file: BinaryIO, end: int) -> int | None:
    """Where the next archive begins behind one that ended; None if only zeros follow."""
    file.seek(end)
    while block := file.read(BLOCK):
        if block.strip(b"\0"):
            return end
        end += len(block)
    return None
