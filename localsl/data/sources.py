"""The data sets by name: scikit-learn's digits, generated shapes, torchvision's data sets, folders of pictures."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from localsl.core.settings import ConfigError, Problem, first_line
from localsl.data import decodable, folder, pictures, shards
from localsl.data.pictures import Pictures
from localsl.data.splits import SUBSET_SEED, Split

if TYPE_CHECKING:
    from localsl.data.settings import DatasetSettings

Splits = tuple[Split | Pictures, Split | Pictures]

# Numbers of training and of test images in the published data sets.
PUBLISHED = {"cifar10": (50000, 10000), "svhn": (73257, 26032), "stl10": (5000, 8000), "digits": (1438, 359)}
PUBLISHED |= {"imagenet": (1281167, 50000), "shapes": (450, 150), "coco": (118287, 5000)}


def training_images(dataset: DatasetSettings) -> int:
    """The number of images in an epoch, determined without reading them."""
    remaining = _train_split_size(dataset) - dataset.validation
    return min(dataset.train_subset or remaining, remaining)


def _train_split_size(dataset: DatasetSettings) -> int:
    """The number of training images before validation images are held out."""
    return dataset.files[0] if dataset.files else PUBLISHED[dataset.name][0]


def load(dataset: DatasetSettings, data_dir: str) -> Splits:
    """The complete training and test split of a data set, in its own image size.

    Raises:
        ConfigError: if it is missing and cannot be downloaded, or cannot be read.
    """
    train, test = SOURCES[dataset.name](dataset, Path(data_dir).expanduser())
    expected = PUBLISHED.get(dataset.name, (len(train), len(test)))
    if (len(train), len(test)) != expected:
        found = f"{len(train)} training and {len(test)} test images"
        warning = f"warning: {found}, where the published {dataset.name} has {expected[0]} and {expected[1]}"
        print(warning, file=sys.stderr)
    return train, test


@dataclass(frozen=True)
class Contents:
    """The contents of a folder or of its archives, as far as they are part of a run's identity.

    Attributes:
        count: the number of classes.
        classes: their names; None in archives, which have numbers only.
        files: the numbers of training and of test pictures, without those that are left out.
        digest: a hash of the names, sizes and classes of the pictures.
    """

    count: int
    classes: list[str] | None
    files: list[int]
    digest: str


# Contents by (folder, whether broken files are left out, whether classes are counted), shared by configurations that
# are composed together.
Known = dict[tuple[Path, bool, bool], Contents]


def described(dataset: DatasetSettings, data_dir: str, known: Known | None = None) -> DatasetSettings:
    """The settings completed from the files on disk: classes, number of images and a digest.

    Images are decoded only if broken ones are left out (`skip_broken`), which changes the numbers.

    Args:
        known: contents of folders read so far; configurations that share it read every folder once.

    Raises:
        ConfigError: if the settings contradict each other or the files.
    """
    if dataset.name == "coco":
        what = "has several objects an image, and no image has a class"
        raise ConfigError([Problem("dataset", "coco", what, "type task=detection backbone_run=ID")])
    if dataset.name not in SOURCES:
        raise ConfigError([Problem("dataset.name", dataset.name, f"one of {', '.join(SOURCES)}")])
    if dataset.name == "imagefolder":
        dataset = _with_contents(dataset, Path(data_dir).expanduser(), {} if known is None else known)
    elif dataset.name == "imagenet":
        dataset = _imagenet_contents(dataset, Path(data_dir).expanduser(), {} if known is None else known)
    elif dataset.root is not None:
        what = f"{dataset.name} is not read from a folder of images"
        instead = "type dataset=imagefolder for your own pictures, data_dir=FOLDER for the data set"
        raise ConfigError([Problem("dataset.root", dataset.root, what, instead)])
    if dataset.name == "stl10":
        labels = [Path(data_dir).expanduser() / "stl10_binary" / f"{part}_y.bin" for part in ("train", "test")]
        files = [file.stat().st_size for file in labels if file.is_file()]
        if len(files) == 2 and tuple(files) != PUBLISHED["stl10"]:
            dataset = replace(dataset, files=files)
    problems = []
    if dataset.num_classes < 2:
        problems.append(Problem("dataset.num_classes", dataset.num_classes, "must be at least 2"))
    if dataset.padding_mode == "reflect" and dataset.padding >= dataset.image_size:
        what = f"reflection needs less than dataset.image_size={dataset.image_size}"
        problems.append(Problem("dataset.padding", dataset.padding, what))
    if dataset.crop == "resized" and dataset.name not in ON_DISK:
        what = f"{dataset.name} is held in memory; only {' and '.join(ON_DISK)} have random resized crops"
        problems.append(Problem("dataset.crop", "resized", what, "type dataset.crop=padded"))
    if dataset.validation and dataset.validation >= _train_split_size(dataset):
        what = f"leaves none of {_train_split_size(dataset)} images to train on"
        problems.append(Problem("dataset.validation", dataset.validation, what, "type a smaller number"))
    if problems:
        raise ConfigError(problems)
    return dataset


def digits(dataset: DatasetSettings, data_dir: Path) -> tuple[Split, Split]:
    """scikit-learn's 1,797 digits, scaled from 0..16 to 0..255; a fixed fifth of each class is the test split."""
    # The file of the package is read directly, because importing scikit-learn takes longer than the first step.
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    grey = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    images, targets = (
        torch.from_numpy(grey.repeat(3, axis=1)),
        torch.from_numpy(table[:, -1]).long(),
    )
    rng = np.random.default_rng(SUBSET_SEED)
    for_test = torch.zeros(len(targets), dtype=torch.bool)
    for label in range(10):
        members = (targets == label).nonzero().flatten()
        for_test[members[torch.from_numpy(rng.permutation(len(members))[: round(len(members) / 5)])]] = True
    complete = Split(images, targets)
    return complete[~for_test], complete[for_test]


def shapes(dataset: DatasetSettings, data_dir: Path) -> tuple[Split, Split]:
    """Generated images with one coloured shape each."""
    from localsl.data.shapes import classified

    return classified("train"), classified("test")


def cifar10(dataset: DatasetSettings, data_dir: Path) -> tuple[Split, Split]:
    """CIFAR-10; torchvision checks the md5 of its files."""
    from torchvision.datasets import CIFAR10

    def split(train: bool) -> Split:
        loaded = _torchvision("cifar10", "cifar-10-batches-py/", data_dir, CIFAR10, train=train)
        images = torch.from_numpy(loaded.data).permute(0, 3, 1, 2).contiguous()
        return Split(images, torch.tensor(loaded.targets))

    return split(True), split(False)


def svhn(dataset: DatasetSettings, data_dir: Path) -> tuple[Split, Split]:
    """SVHN's cropped digits; torchvision checks the md5 of its files."""
    from torchvision.datasets import SVHN

    def split(which: str) -> Split:
        loaded = _torchvision("svhn", "train_32x32.mat and test_32x32.mat", data_dir, SVHN, split=which)
        return Split(torch.from_numpy(loaded.data), torch.from_numpy(loaded.labels).long())

    return split("train"), split("test")


def stl10(dataset: DatasetSettings, data_dir: Path) -> tuple[Split, Split]:
    """STL-10's labelled images; files with another number of images are accepted with a warning."""
    from torchvision.datasets import STL10

    class Labelled(STL10):
        """STL10 that checks only that the labelled files exist, not their md5: the unlabelled images, the largest
        file of the archive, are not needed."""

        def _check_integrity(self) -> bool:
            base = Path(self.root) / self.base_folder
            names = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")
            return all((base / name).is_file() for name in names)

    def split(which: str) -> Split:
        loaded = _torchvision("stl10", "stl10_binary/", data_dir, Labelled, split=which)
        return Split(torch.from_numpy(loaded.data), torch.from_numpy(np.asarray(loaded.labels)).long())

    return split("train"), split("test")


def imagefolder(dataset: DatasetSettings, data_dir: Path) -> Splits:
    """The pictures of a folder, checked; `dataset.crop` says whether they stay on disk or are loaded into memory."""
    return _pictures(_root(dataset, data_dir), dataset, data_dir)


def imagenet(dataset: DatasetSettings, data_dir: Path) -> Splits:
    """ImageNet from `dataset.root` or DATA_DIR/imagenet; it is not downloaded, since that needs an account."""
    root = _root(dataset, data_dir)
    if not root.is_dir():
        what = f"there is no folder {root.resolve()}"
        instead = (
            "put train/<class>/*.JPEG and val/<class>/*.JPEG there, or train/*.tar and val/*.tar of pairs "
        )
        instead += "KEY.jpg, KEY.cls; or type dataset.root=FOLDER, or set LOCALSL_DATA to the folder above it"
        raise ConfigError([Problem("dataset.root", dataset.root, what, instead)])
    return _pictures(root, dataset, data_dir)


SOURCES: dict[str, Callable[[DatasetSettings, Path], Splits]] = {
    "digits": digits,
    "shapes": shapes,
    "cifar10": cifar10,
    "svhn": svhn,
    "stl10": stl10,
    "imagefolder": imagefolder,
    "imagenet": imagenet,
}
ON_DISK = ("imagefolder", "imagenet")


def _with_contents(dataset: DatasetSettings, data_dir: Path, known: Known) -> DatasetSettings:
    """The settings completed by the contents of a folder or of its archives."""
    if dataset.root is None:
        what = "must name a folder that holds train/<class>/ and test/<class>/, or train/*.tar and test/*.tar"
        raise ConfigError([Problem("dataset.root", None, what, "type dataset.root=FOLDER")])
    found = _contents(_root(dataset, data_dir), dataset, data_dir, known)
    count = dataset.num_classes or found.count
    return replace(dataset, num_classes=count, classes=found.classes, files=found.files, digest=found.digest)


def _imagenet_contents(dataset: DatasetSettings, data_dir: Path, known: Known) -> DatasetSettings:
    """The settings of ImageNet, completed by the contents of its folder if they are not the published ones."""
    root = _root(dataset, data_dir)
    try:
        if not root.is_dir():
            return dataset
        # Counting files is much faster than reading the status of each.
        countable = not dataset.skip_broken and not shards.found(root)
        if countable and folder.counts(root) == PUBLISHED["imagenet"]:
            return dataset
        found = _contents(root, dataset, data_dir, known)
    except ConfigError:  # reported when a run loads the data; rendering tables does not need them
        return dataset
    if tuple(found.files) == PUBLISHED["imagenet"]:
        return dataset
    return replace(dataset, files=found.files, digest=found.digest)


def _root(dataset: DatasetSettings, data_dir: Path) -> Path:
    return data_dir / "imagenet" if dataset.root is None else Path(dataset.root).expanduser()


def _contents(root: Path, dataset: DatasetSettings, data_dir: Path, known: Known) -> Contents:
    key = root, dataset.skip_broken, not dataset.num_classes
    if key not in known:
        found = _listed(root, dataset, data_dir, warn=False)
        if dataset.skip_broken:
            found = decodable.checked(found, True, data_dir, warn=False)
        train, test = found
        if shards.found(root):
            names, count = None, 0 if dataset.num_classes else shards.classes(root, train.targets)
        else:
            names = folder.classes(folder.splits(root)[0])
            count = len(names)
        known[key] = Contents(count, names, [len(train), len(test)], pictures.digest(train, test))
    return known[key]


def _listed(root: Path, dataset: DatasetSettings, data_dir: Path, warn: bool = True) -> Sequence[Pictures]:
    """The training and the test split of a folder or of its archives; `warn` prints which files are not used.

    Raises:
        ConfigError: if the layout is wrong.
    """
    if shards.found(root):
        return shards.listed(root, dataset.image_size, data_dir, warn)
    found = folder.listed(root, dataset.image_size)
    unused = folder.loose_files(root) if warn else ""
    if unused:
        print(f"warning: {unused}", file=sys.stderr)
    return found


def _pictures(root: Path, dataset: DatasetSettings, data_dir: Path) -> Splits:
    """The training and the test split of a folder or of its archives, without broken files if these are skipped.

    Raises:
        ConfigError: if the layout is wrong, files are broken, or the contents are not those that the run's identity
            was computed from.
    """
    found = _listed(root, dataset, data_dir)
    train, test = decodable.checked(found, dataset.skip_broken, data_dir)
    if dataset.digest not in (None, pictures.digest(train, test)):
        what = f"{root} does not hold the pictures that this run was configured with"
        instead = (
            "names, sizes or classes of its files have changed; repeat the command to use the present files"
        )
        raise ConfigError([Problem("dataset.root", dataset.root, what, instead)])
    if dataset.crop == "resized":
        return train, test
    square = pictures.centre_square(dataset.image_size)
    return train.in_memory(square), test.in_memory(square)


def _torchvision(name: str, files: str, data_dir: Path, kind: type, **which: Any) -> Any:
    """A torchvision data set, downloaded if it is missing."""
    place = data_dir.resolve()
    try:
        try:
            return kind(str(data_dir), **which)
        except RuntimeError:  # raised by torchvision for missing files and for a wrong md5
            print(f"{name} is missing or incomplete in {place}: downloading", file=sys.stderr)
            return kind(str(data_dir), download=True, **which)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        present = f" LOCALSL_DATA is {os.environ['LOCALSL_DATA']}." if "LOCALSL_DATA" in os.environ else ""
        what = f"it is missing or incomplete in {place} and could not be downloaded ({first_line(error)})"
        instead = f"put {files} there, or set LOCALSL_DATA (or data_dir=) to the folder that holds it.{present}"
        raise ConfigError([Problem("dataset", name, what, instead)]) from None
