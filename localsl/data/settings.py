"""The settings of a data set, and the settings of a run that loading its data needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from localsl.core.settings import Affects, derived, number, one_of, ruled, triple

ALL_IMAGES = "null takes all images"


@dataclass(kw_only=True)
class DatasetSettings:
    """Images and how they are normalised and augmented (conf/dataset)."""

    name: str = ruled(affects=Affects.NUMBERS)
    sgd_lr: float = ruled(number(above=0), affects=Affects.NOTHING, default=0.1)  # stands for optimizer.lr
    num_classes: int = ruled(number(0, at_most=2**20))
    image_size: int = ruled(number(4, at_most=1024))
    mean: list[float] = ruled(triple(), affects=Affects.NUMBERS)
    std: list[float] = ruled(triple(above=0), affects=Affects.NUMBERS)
    padding: int = ruled(number(0, at_most=128), affects=Affects.NUMBERS)
    padding_mode: str = ruled(one_of("reflect", "zero"), affects=Affects.NUMBERS)
    flip: bool = ruled(affects=Affects.NUMBERS)
    train_subset: int | None = ruled(number(1, instead=ALL_IMAGES), affects=Affects.NUMBERS, setting=True)
    test_subset: int | None = ruled(number(1, instead=ALL_IMAGES), affects=Affects.NUMBERS, setting=True)
    validation: int = ruled(
        number(0, instead="0 holds none out"), affects=Affects.NUMBERS, setting=True, default=0
    )
    root: str | None = ruled(affects=Affects.NOTHING)
    crop: str = ruled(one_of("padded", "resized"), default="padded")
    workers: int | None = ruled(
        number(0, at_most=1024, instead="null is one a core"), affects=Affects.NOTHING, default=None
    )
    skip_broken: bool = ruled(affects=Affects.NUMBERS, default=False)
    top5: bool = ruled(affects=Affects.NUMBERS, default=False)
    # Data that are not as published enter a run's identity by what they hold, not by where they lie.
    classes: list[str] | None = derived()
    files: list[int] | None = derived()
    digest: str | None = derived()


class Loading(Protocol):
    """The settings that loading a run's data needs; `Config` has them under the same names."""

    dataset: DatasetSettings
    data_dir: str
    batch_size: int

    @property
    def replicas(self) -> int:
        """The number of processes that share every batch."""
        ...
