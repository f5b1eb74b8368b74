"""Pictures in WebDataset archives: ROOT/train/*.tar beside ROOT/test/*.tar (or val/), or all of them in ROOT,
where their names hold "train", and "test" or "val". KEY.jpg, or another picture, stands beside KEY.cls with its
class, a whole number from 0.

Archives are not streamed, as WebDataset does: every picture's place in them is looked up once, and it is read
from there. So all pictures are shuffled, the parts of several processes are exact, an epoch goes on at any
step, and the batches are those of the same pictures in folders. It costs a seek a picture.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from torch import Tensor

from localsl.data import kept
from localsl.data.folder import error
from localsl.data.pictures import Pictures

SUFFIXES = {"jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "pgm", "pnm", "tif", "tiff"}

Line = tuple[bytes, int, int, int, int, int]


def found(root: Path) -> tuple[list[Path], list[Path]] | None:
    """The archives of training and of test pictures, sorted; None where there are no archives."""
    beside = _archives(root)
    for train, *tests in (
        [_archives(root / name) for name in ("train", "test", "val")],
        [[path for path in beside if _meant(path) == part] for part in ("train", "test", "val")],
    ):
        if train:
            return train, next(filter(None, tests), [])
    return None


def listed(root: Path, size: int, data_dir: Path) -> tuple[Pictures, Pictures]:
    """Both splits, in the order of names and archives.

    What was looked up is remembered in `data_dir` until an archive changes: 40 us a file, two minutes for
    ImageNet.

    Raises:
        ConfigError: if there are no archives of one of them, or one is damaged or lacks labels.
    """
    archives = found(root)
    assert archives is not None
    if not archives[1]:
        raise error(root, "holds no archives for test", "put test/*.tar or val/*.tar beside train/*.tar")
    splits = []
    for which, paths in zip(("training", "test"), archives, strict=True):
        split = _split(root, size, paths, data_dir)
        if not len(split):
            raise error(root, f"its archives hold no {which} pictures", "KEY.jpg must stand beside KEY.cls")
        splits.append(split)
    return splits[0], splits[1]


def classes(targets: Tensor) -> int:
    """As many as labels tell, which are counted from 0."""
    return int(targets.max()) + 1


def _archives(place: Path) -> list[Path]:
    return sorted(path for path in place.glob("*.tar") if not path.name.startswith("."))


def _meant(path: Path) -> str | None:
    return next((part for part in ("train", "test", "val") if part in path.name.lower()), None)


def _split(root: Path, size: int, paths: list[Path], data_dir: Path) -> Pictures:
    stamps = [(str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    digest = hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]
    file = data_dir / "indexed" / f"{digest}.npz"
    with kept.alone(file):
        remembered = _remembered(file)
        if remembered is not None:
            return Pictures(root, size, *remembered)
        split = Pictures.of(root, size, (line for path in paths for line in _lines(root, path)))
        packed = io.BytesIO()
        np.savez_compressed(packed, where=split.where, targets=split.targets.numpy())
        kept.write(file, packed.getvalue())
        return split


def _remembered(file: Path) -> tuple[np.ndarray, Tensor] | None:
    import torch

    try:
        with np.load(file) as arrays:
            return arrays["where"], torch.from_numpy(arrays["targets"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):  # not there, or not whole
        return None


def _lines(root: Path, path: Path) -> Iterator[Line]:
    """The pictures of an archive with their classes.

    Raises:
        ConfigError: if it is damaged, a picture has no class beside it, or two have the same name.
    """
    archive = os.fsencode(path.relative_to(root))
    stamp = path.stat().st_mtime_ns
    pictures: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key = f"{folder}/{stem}"
                if not member.isfile() or not stem:
                    continue
                if suffix.lower() in SUFFIXES:
                    if key in pictures:
                        raise error(root, f"{path} has two pictures {key.lstrip('/')}", "name them apart")
                    pictures[key] = member
                elif suffix == "cls":
                    content = tar.extractfile(member)
                    assert content is not None
                    labels[key] = content.read(64).decode("ascii", "replace").strip()
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # it would keep them all
    except (tarfile.TarError, OSError, EOFError) as broken:
        raise error(root, f"{path} is damaged ({broken})", "copy it again") from None
    unlabelled = [member.name for key, member in pictures.items() if not labels.get(key, "").isdecimal()]
    if unlabelled:
        what = f"{path}: {unlabelled[0]} has no class, a whole number in KEY.cls beside it"
        raise error(root, what, f"{len(unlabelled)} of {len(pictures)} pictures lack one")
    for key, member in pictures.items():
        name = archive + b"/" + os.fsencode(member.name)
        yield name, len(archive), member.offset_data, member.size, stamp, int(labels[key])
