"""A folder of one's own pictures: ROOT/train/<class>/*.png beside ROOT/test/<class>/*.png (or val/)."""

from __future__ import annotations

from pathlib import Path

import torch

from localsl.data import Split
from localsl.schema import ConfigError, Problem

SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}


def contents(root: Path) -> tuple[list[str], list[int]]:
    """Class names, sorted, and the number of training and of test pictures.

    Raises:
        ConfigError: if the folder is not laid out as it should be.
    """
    train, test = _splits(root)
    classes = _classes(train)
    if not classes:
        raise _error(root, f"{train} holds no class folders", "put train/<class>/*.png in it")
    strange = sorted(set(_classes(test)) - set(classes))
    if strange:
        raise _error(root, f"{test} has classes that {train} lacks: {', '.join(strange)}")
    empty = [name for name in classes if not _pictures(train / name)]
    if empty:
        raise _error(root, f"{train} has no pictures of {', '.join(empty)}", "add some, or remove the folder")
    counts = [sum(len(_pictures(part / name)) for name in classes) for part in (train, test)]
    if not counts[1]:
        raise _error(root, f"{test} holds no pictures", f"known endings: {' '.join(sorted(SUFFIXES))}")
    return classes, counts


def load(root: Path, size: int) -> tuple[Split, Split]:
    """Both splits: the shorter side resized to `size`, the middle square kept.

    Raises:
        ConfigError: naming a picture that cannot be read.
    """
    classes, _ = contents(root)
    train, test = (_decoded(root, part, classes, size) for part in _splits(root))
    return train, test


def _splits(root: Path) -> tuple[Path, Path]:
    train = root / "train"
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if not root.is_dir():
        raise _error(root, "there is no such folder")
    if not train.is_dir() or test is None:
        raise _error(root, "must hold train/ and test/ (or val/)", "put train/<class>/*.png in it")
    return train, test


def _classes(part: Path) -> list[str]:
    return sorted(e.name for e in part.iterdir() if e.is_dir() and not e.name.startswith("."))


def _pictures(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(file for file in place.rglob("*") if file.suffix.lower() in SUFFIXES)


def _decoded(root: Path, part: Path, classes: list[str], size: int) -> Split:
    from PIL import Image
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional as tv

    fit = v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size)])
    files = [(file, label) for label, name in enumerate(classes) for file in _pictures(part / name)]
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    for index, (file, _) in enumerate(files):
        try:
            with Image.open(file) as picture:
                images[index] = tv.pil_to_tensor(fit(picture.convert("RGB")))
        except (OSError, ValueError, SyntaxError) as error:
            raise _error(root, f"{file} cannot be read ({error})", "repair or remove it") from None
    return Split(images, torch.tensor([label for _, label in files]))


def _error(root: Path, what: str, instead: str = "") -> ConfigError:
    return ConfigError([Problem("dataset.root", root, what, instead)])
