"""Loading and checking data sets: uint8 images in memory, or pictures on disk that are decoded when needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from localsl.core.settings import ConfigError, Problem
from localsl.data import sources
from localsl.data.settings import DatasetSettings, Loading
from localsl.data.splits import SUBSET_SEED, Split

if TYPE_CHECKING:
    from localsl.data.pictures import Pictures

AnySplit = TypeVar("AnySplit", "Split", "Pictures", "Split | Pictures")


@dataclass(frozen=True)
class Data:
    """The splits of a run, in memory or on disk; `localsl.data.feed` makes batches of them.

    Attributes:
        validation: images held out of training; None if there are none.
    """

    train: Split | Pictures
    test: Split | Pictures
    validation: Split | Pictures | None = None


def load(cfg: Loading) -> Data:
    """Load and check the data set of a configuration, take its subsets, and resize it to `dataset.image_size`.

    Raises:
        ConfigError: if it is missing and cannot be downloaded, is invalid, or has too few images for the
            requested subsets.
    """
    train, test = sources.load(cfg.dataset, cfg.data_dir)
    for which, split in (("train", train), ("test", test)):
        check(split, which, cfg.dataset)
    train, validation = _split_off_validation(train, cfg.dataset)
    train = _subset(train, "train_subset", cfg.dataset)
    test = _subset(test, "test_subset", cfg.dataset)
    processes = cfg.replicas
    if 0 < len(train) % cfg.batch_size <= processes:
        each = " for each process" if processes > 1 else ""
        what = f"{len(train)} training images leave a last batch of one{each}, which BatchNorm cannot train on"
        raise ConfigError([Problem("batch_size", cfg.batch_size, what, "type another batch_size")])
    size = cfg.dataset.image_size
    held_out = None if validation is None else _resized(validation, size)
    return Data(_resized(train, size), _resized(test, size), held_out)


def check(split: Split | Pictures, which: str, dataset: DatasetSettings) -> None:
    """Check that the shapes, counts and labels of a split are possible.

    Raises:
        ConfigError: if they are not.
    """
    images, targets = split.images if isinstance(split, Split) else None, split.targets
    count = len(targets if images is None else images)
    found = ""
    if images is not None and (images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8):
        found = f"images are {images.dtype} of shape {tuple(images.shape)}, not uint8 (N, 3, H, W)"
    elif count != len(targets) or not count:
        found = f"there are {count} images and {len(targets)} labels"
    elif not 0 <= int(targets.min()) <= int(targets.max()) < dataset.num_classes:
        labels = f"{int(targets.min())} to {int(targets.max())}"
        found = f"labels run from {labels}, with dataset.num_classes={dataset.num_classes}"
    if found:
        raise ConfigError([Problem("dataset", dataset.name, f"its {which} split is invalid: {found}")])


def stratified(targets: Tensor, count: int) -> Tensor:
    """Indices of `count` images, the same in every run, to which each class contributes in proportion to its size.

    They are evenly spaced in the images sorted by class and shuffled within each class.
    """
    shuffled = torch.from_numpy(np.random.default_rng(SUBSET_SEED).permutation(len(targets)))
    by_class = shuffled[targets[shuffled].argsort(stable=True)]
    return by_class[(torch.arange(count) * len(targets) + len(targets) // 2) // count]


def balanced(targets: Tensor, count: int) -> Tensor:
    """Sorted indices of `count` images, the same in every run, with class counts that differ by at most one.

    Raises:
        ValueError: if a class has too few images.
    """
    classes = targets.unique()
    rng = np.random.default_rng(SUBSET_SEED)
    chosen = []
    for rank, label in enumerate(classes):
        members = (targets == label).nonzero().flatten()
        wanted = (count + len(classes) - 1 - rank) // len(classes)
        if wanted > len(members):
            raise ValueError(f"class {int(label)} has {len(members)} images, and {wanted} are needed")
        chosen.append(members[torch.from_numpy(rng.permutation(len(members))[:wanted])])
    return torch.cat(chosen).sort().values


def _split_off_validation(train: AnySplit, dataset: DatasetSettings) -> tuple[AnySplit, AnySplit | None]:
    """The images to train on and the validation images, which are taken out of them."""
    if not dataset.validation:
        return train, None
    chosen = torch.zeros(len(train), dtype=torch.bool)
    chosen[stratified(train.targets, dataset.validation)] = True
    remaining, held_out = (mask.nonzero().flatten() for mask in (~chosen, chosen))
    missing = set(train.targets.tolist()) - set(train.targets[remaining].tolist())
    if missing:
        what = f"leaves no image of class {min(missing)} to train on"
        raise ConfigError([Problem("dataset.validation", dataset.validation, what, "type a smaller number")])
    return train[remaining], train[held_out]


def _subset(split: AnySplit, key: str, dataset: DatasetSettings) -> AnySplit:
    count = getattr(dataset, key)
    if count is None:
        return split
    try:
        return split[balanced(split.targets, count)]
    except ValueError as error:
        what = f"the {len(split)} images have no balanced subset of this size: {error}"
        raise ConfigError([Problem(f"dataset.{key}", count, what, "type a smaller number")]) from None


def _resized(split: AnySplit, size: int) -> AnySplit:
    if not isinstance(split, Split) or split.images.shape[2:] == (size, size):
        return split
    resized = [
        F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True).round().byte()
        for part in split.images.split(1024)
    ]
    return replace(split, images=torch.cat(resized))
