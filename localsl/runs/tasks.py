"""The task of a configuration: its data and its network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from localsl.config.building import build_network
from localsl.data import loading
from localsl.runs import classification, staging
from localsl.runs.classification import Classification
from localsl.train.task import Task

if TYPE_CHECKING:
    from localsl.config.schema import Config

Loaded = Any  # the data of a task, in a form that only the task knows


def load(cfg: Config) -> Loaded:
    """Load the data set of a configuration.

    Raises:
        ConfigError: if it is not available, or does not fit the configuration.
    """
    if cfg.task.name == "classification":
        return loading.load(cfg)
    from localsl.detection import sources  # imported here because classification does not need it

    return sources.load(cfg.dataset, cfg.data_dir)


def build(cfg: Config, loaded: Loaded) -> Task:
    """Build the task of a configuration on loaded data; its network has initial weights.

    Raises:
        LocalslError: if the trained backbone of a detector does not exist.
    """
    if cfg.task.name == "classification":
        return Classification(cfg, loaded)
    from localsl.runs.detection import Detection

    return Detection(cfg, loaded)


def described(cfg: Config) -> str:
    """A description of the network of a configuration, for which no data are needed."""
    if cfg.task.name == "classification":
        network = build_network(cfg)
        return classification.describe(cfg, network) + staging.described(cfg, network)
    from localsl.runs import detection

    return detection.describe(cfg, detection.build_detector(cfg))
