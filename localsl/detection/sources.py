"""The data sets for detection: COCO and generated shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from localsl.core.settings import ConfigError, Problem
from localsl.data.sources import PUBLISHED
from localsl.detection.scenes import Scenes, ShapeScenes

if TYPE_CHECKING:
    from localsl.data.settings import DatasetSettings

NAMES = ("coco", "shapes")


@dataclass(frozen=True)
class Data:
    """The training and the test split of a detector."""

    train: Scenes
    test: Scenes


def described(dataset: DatasetSettings, data_dir: str) -> DatasetSettings:
    """The settings, completed by the number of images and a digest if the files are not the published ones.

    Raises:
        ConfigError: if the data set is not for detection, a setting does not apply to it, or its annotations are
            invalid.
    """
    if dataset.name not in NAMES:
        what = "has no objects' boxes and masks"
        raise ConfigError(
            [Problem("dataset", dataset.name, what, f"type dataset={' or dataset='.join(NAMES)}")]
        )
    problems = []
    if dataset.validation:
        what = "a detector is trained on all images, and none are held out"
        problems.append(Problem("dataset.validation", dataset.validation, what, "leave it out"))
    if dataset.skip_broken:
        what = "a detector's images are complete, as annotations refer to them"
        problems.append(Problem("dataset.skip_broken", True, what, "leave it out"))
    if problems:
        raise ConfigError(problems)
    if dataset.name == "shapes":
        if dataset.root is not None:
            raise ConfigError(
                [Problem("dataset.root", dataset.root, "shapes are generated, not read", "leave it out")]
            )
        return dataset
    from localsl.detection import coco

    found = coco.described(_root(dataset, data_dir), Path(data_dir).expanduser())
    if found is None or tuple(found[0]) == PUBLISHED["coco"]:
        return dataset
    return replace(dataset, files=found[0], digest=found[1])


def load(dataset: DatasetSettings, data_dir: str) -> Data:
    """The scenes of a data set, or of its subsets.

    Raises:
        ConfigError: naming what is missing or invalid.
    """
    if dataset.name == "shapes":
        return Data(ShapeScenes.of("train", dataset.train_subset), ShapeScenes.of("test", dataset.test_subset))
    from localsl.detection import coco

    return Data(*coco.load(dataset, _root(dataset, data_dir), Path(data_dir).expanduser()))


def _root(dataset: DatasetSettings, data_dir: str) -> Path:
    return Path(dataset.root or Path(data_dir) / "coco").expanduser()
