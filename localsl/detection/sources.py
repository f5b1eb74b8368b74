"""The data sets for detection: COCO, and shapes that are made on the fly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from localsl.core.settings import ConfigError, Problem
from localsl.data.sources import PUBLISHED
from localsl.detection.scenes import MadeScenes, Scenes

if TYPE_CHECKING:
    from localsl.data.settings import DatasetSettings

NAMES = ("coco", "shapes")


@dataclass(frozen=True)
class Data:
    """What a detector trains on and is tested on."""

    train: Scenes
    test: Scenes


def described(dataset: DatasetSettings, data_dir: str) -> DatasetSettings:
    """The settings with what is told by the files alone, where these are not as published.

    Raises:
        ConfigError: if the data set is none for detection, or its annotations are not as they should be.
    """
    if dataset.name not in NAMES:
        what = "has no objects' boxes and masks"
        raise ConfigError(
            [Problem("dataset", dataset.name, what, f"type dataset={' or dataset='.join(NAMES)}")]
        )
    if dataset.name == "shapes":
        if dataset.root is not None:
            raise ConfigError(
                [Problem("dataset.root", dataset.root, "shapes are made, not read", "leave it out")]
            )
        return dataset
    from localsl.detection import coco

    found = coco.described(_root(dataset, data_dir), Path(data_dir).expanduser())
    if found is None or tuple(found[0]) == PUBLISHED["coco"]:
        return dataset
    return replace(dataset, files=found[0], digest=found[1])


def load(dataset: DatasetSettings, data_dir: str) -> Data:
    """The scenes of a data set, cut to its subsets.

    Raises:
        ConfigError: naming what is missing or wrong.
    """
    if dataset.name == "shapes":
        return Data(MadeScenes.of("train", dataset.train_subset), MadeScenes.of("test", dataset.test_subset))
    from localsl.detection import coco

    return Data(*coco.load(dataset, _root(dataset, data_dir), Path(data_dir).expanduser()))


def _root(dataset: DatasetSettings, data_dir: str) -> Path:
    return Path(dataset.root or Path(data_dir) / "coco").expanduser()
