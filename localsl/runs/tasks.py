"""The task of a configuration: its data, and then its network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from localsl import data
from localsl.config.building import build_network
from localsl.runs import classification, staging
from localsl.runs.classification import Classification
from localsl.train.task import Task

if TYPE_CHECKING:
    from localsl.config.schema import Config

Loaded = Any  # the data of a task, which no other looks into


def load(cfg: Config) -> Loaded:
    """The data set of a configuration.

    Raises:
        ConfigError: if it is not available, or not as it should be.
    """
    if cfg.task.name == "classification":
        return data.load(cfg)
    from localsl.detection import sources  # imports that classification does not wait for

    return sources.load(cfg.dataset, cfg.data_dir)


def build(cfg: Config, loaded: Loaded) -> Task:
    """The task on data that were loaded, its network with its initial weights.

    Raises:
        LocalslError: if the backbone that detection starts from is not there.
    """
    if cfg.task.name == "classification":
        return Classification(cfg, loaded)
    from localsl.runs.detection import Detection

    return Detection(cfg, loaded)


def described(cfg: Config) -> str:
    """What the network of a configuration is made of, for which no data are needed."""
    if cfg.task.name == "classification":
        network = build_network(cfg)
        return classification.describe(cfg, network) + staging.described(cfg, network)
    from localsl.runs import detection

    return detection.describe(cfg, detection.build_detector(cfg))
