"""The typed schema of a run's configuration: its fields and the values that each allows.

A field added after runs were recorded needs a default: the value that those runs were trained with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from localsl import methods
from localsl.aux_nets.momentum import EmaSettings
from localsl.aux_nets.settings import AuxSettings
from localsl.backbones.base import BackboneConfig
from localsl.core.partition import PartitionSettings
from localsl.core.settings import Affects, ascending, derived, number, one_of, ruled
from localsl.data.settings import DatasetSettings
from localsl.detection.settings import DetectorSettings
from localsl.execution.balance import ParallelSettings
from localsl.train.optim import OptimizerSettings, ScheduleSettings


@dataclass(kw_only=True)
class OwnSettings:
    """The rule that trains modules, and the settings that only it has (conf/method).

    Attributes:
        name: the display name, which is a file of conf/method.
        rule: a file of localsl/methods or a registered rule; several names may share one rule.
    """

    name: str
    rule: str

    @property
    def single_module(self) -> bool:
        """Whether the rule trains the whole network as one module."""
        return methods.find(self.rule).single_module

    def own(self) -> dict[str, Any]:
        """The rule's own settings, by name."""
        return {key: value for key, value in vars(self).items() if key not in ("name", "rule")}


@dataclass(kw_only=True)
class RecipeConfig:
    """The values of `schedule=paper`, and the batch size and learning rate (conf/recipe).

    Attributes:
        batch_size, lr: None uses the values of the data set.
    """

    name: str = "small"
    epochs: int = ruled(number(1, at_most=10**6), default=400)
    warmup_epochs: int = ruled(number(0), default=10)
    warmup_lr: float = ruled(number(0), default=0.01)
    zero_based: bool = False
    milestones: list[int] = ruled(ascending(), default_factory=list)
    decay: float = ruled(number(above=0, at_most=1), default=1.0)
    warmup_steps: int = ruled(number(0, at_most=10**9), default=0)
    batch_size: int | None = ruled(number(2, at_most=2**20), default=None)
    lr: float | None = ruled(number(above=0), default=None)


@dataclass(kw_only=True)
class CheckpointConfig:
    """When checkpoints are written."""

    every: int | None = ruled(number(1, instead="null writes none"), default=1)
    required: bool = False

    def due(self, epochs: int) -> bool:
        """Whether a checkpoint is written after this many epochs."""
        return self.every is not None and epochs % self.every == 0


@dataclass(kw_only=True)
class LoggerConfig:
    """Where metrics are sent, in addition to the run's folder (conf/logger)."""

    name: str = ruled(one_of("csv", "wandb"))
    project: str = "localsl"
    entity: str | None = None
    mode: str = ruled(one_of("auto", "online", "offline", "disabled"), default="auto")
    tags: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class TaskConfig:
    """The task that a network is trained for (conf/task)."""

    name: str = ruled(one_of("classification", "detection"), default="classification")


@dataclass(kw_only=True)
class Config:
    """The configuration of a run.

    conf/config.yaml explains each value; the metadata of a field states what depends on it.
    """

    method: OwnSettings
    dataset: DatasetSettings
    backbone: BackboneConfig
    aux: AuxSettings
    ema: EmaSettings
    optimizer: OptimizerSettings = ruled(setting=True)
    schedule: ScheduleSettings = ruled(affects=Affects.NUMBERS, setting=True)
    logger: LoggerConfig = ruled(affects=Affects.NOTHING)
    partition: PartitionSettings
    checkpoint: CheckpointConfig = ruled(affects=Affects.NOTHING)
    # A recipe only sets the schedule, learning rate and batch size, whose own fields state what they affect.
    recipe: RecipeConfig = ruled(affects=Affects.NOTHING, default_factory=RecipeConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    backbone_run: str | None = ruled(affects=Affects.NUMBERS, setting=True, default=None)
    backbone_folder: str | None = derived(affects=Affects.NOTHING)
    K: int = ruled(number(instead="for example K=16"))
    batch_size: int = ruled(number(2, at_most=2**20, instead="BatchNorm needs at least two"), setting=True)
    seed: int = ruled(number(0, at_most=2**53), affects=Affects.NUMBERS)
    precision: str = ruled(one_of("fp32", "bf16"), setting=True)
    processes: int | None = ruled(number(1, at_most=2**16), setting=True, default=1)
    parallel: ParallelSettings = ruled(affects=Affects.NOTHING, default_factory=ParallelSettings)
    sync_batchnorm: bool = ruled(setting=True, default=False)
    channels_last: bool = ruled(affects=Affects.TIME)
    memory: str = ruled(one_of("plain", "lean"), affects=Affects.COST, default="plain")
    compile: bool = ruled(affects=Affects.TIME)
    cuda_graph: bool = ruled(affects=Affects.TIME)
    # The two fields that `fast` sets state what they affect.
    fast: bool = ruled(affects=Affects.NOTHING, default=False)
    deterministic: bool = ruled(affects=Affects.TIME, default=False)
    tf32: bool = ruled(affects=Affects.TIME, default=True)
    device: str = ruled(affects=Affects.NOTHING)
    threads: int | None = ruled(number(1, at_most=1024), affects=Affects.NOTHING)
    data_dir: str = ruled(affects=Affects.NOTHING)
    output_dir: str = ruled(affects=Affects.NOTHING)
    results_dir: str = ruled(affects=Affects.NOTHING)

    @property
    def replicas(self) -> int:
        """The number of processes that each train on a part of every batch."""
        return (self.processes or 1) if self.parallel.name == "data" else 1


RunT = TypeVar("RunT", bound=Config)
