"""The typed schema of a run's configuration: what values there are, and what each allows.

A field that joins it after runs were recorded has a default here: the value that those runs mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast, get_type_hints

from localsl import methods
from localsl.aux_nets.momentum import EmaSettings
from localsl.aux_nets.settings import AuxSettings
from localsl.backbones.base import BackboneConfig
from localsl.core.partition import PartitionSettings
from localsl.core.settings import ascending, derived, number, one_of, ruled
from localsl.data.settings import DatasetSettings
from localsl.detection.settings import DetectorSettings
from localsl.execution.balance import ParallelSettings
from localsl.methods.base import Method
from localsl.train.optim import OptimizerSettings, ScheduleSettings


@dataclass(kw_only=True)
class OwnSettings:
    """The rule that trains modules, and the settings that only it has (conf/method).

    Attributes:
        name: what the run is called: a file of conf/method.
        rule: the file of localsl/methods, or the name of a registered rule: two forms of a rule share it.
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


@cache
def own_settings(method: type[Method]) -> type[OwnSettings]:
    """`OwnSettings` with the fields of a rule."""
    kinds = get_type_hints(method)
    own = [(field.name, kinds[field.name], _copied(field)) for field in method.own_fields()]
    return dataclasses.make_dataclass(f"{method.__name__}Settings", own, bases=(OwnSettings,), kw_only=True)


def _copied(entry: dataclasses.Field) -> Any:
    """The same field for another class: a dataclass changes those that it is given."""
    default = {name: getattr(entry, name) for name in ("default", "default_factory")}
    given = {name: value for name, value in default.items() if value is not dataclasses.MISSING}
    return field(metadata=entry.metadata, **given)


@dataclass(kw_only=True)
class RecipeConfig:
    """What `schedule=paper` means, and with which batches and learning rate (conf/recipe).

    Attributes:
        batch_size, lr: None leaves the data set its own.
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
    """When a run's state is written down."""

    every: int | None = ruled(number(1, instead="null writes none"), default=1)
    required: bool = False

    def due(self, epochs: int) -> bool:
        """Whether one is written after this many epochs."""
        return self.every is not None and epochs % self.every == 0


@dataclass(kw_only=True)
class LoggerConfig:
    """Where metrics go beside the run's folder (conf/logger)."""

    name: str = ruled(one_of("csv", "wandb"))
    project: str = "localsl"
    entity: str | None = None
    mode: str = ruled(one_of("auto", "online", "offline", "disabled"), default="auto")
    tags: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class TaskConfig:
    """What a network is trained for (conf/task)."""

    name: str = ruled(one_of("classification", "detection"), default="classification")


KINDS = ("none", "cka", "probes", "feature_maps", "convergence", "pyramid", "tradeoff", "accuracy", "grid")


@dataclass(kw_only=True)
class AnalysisConfig:
    """What is looked at in trained networks, in place of training one (conf/analysis).

    A kind's file names the fields that it reads.
    """

    kind: str = ruled(one_of(*KINDS), default="none")
    output: str | None = None
    images: int | None = ruled(number(4, instead="null takes all"), default=None)
    batch: int | None = ruled(number(8, instead="null takes all images at once"), default=None)
    biased: bool = False
    iterations: int = ruled(number(1), default=100)
    penalty: float = ruled(number(0), default=0.0)
    pictures: list[int] = field(default_factory=list)
    layers: list[int] | None = None
    across: str | None = None


SHOWN = ("modules", "runs", "bench", "pipeline", "jobs", "status", "tables", "figures", "report", "rehearsal")


@dataclass(kw_only=True)
class Config:
    """One run. conf/config.yaml says what each value means."""

    method: OwnSettings
    dataset: DatasetSettings
    backbone: BackboneConfig
    aux: AuxSettings
    ema: EmaSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    logger: LoggerConfig
    partition: PartitionSettings
    checkpoint: CheckpointConfig
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    backbone_run: str | None = None
    backbone_folder: str | None = derived()
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    runs: list[str] = field(default_factory=list)
    K: int = ruled(number(instead="for example K=16"))
    batch_size: int = ruled(number(2, at_most=2**20, instead="BatchNorm needs two images"))
    seed: int = ruled(number(0, at_most=2**53))
    precision: str = ruled(one_of("fp32", "bf16"))
    processes: int | None = ruled(number(1, at_most=2**16), default=1)
    parallel: ParallelSettings = field(default_factory=ParallelSettings)
    sync_batchnorm: bool = False
    channels_last: bool
    memory: str = ruled(one_of("plain", "lean"))
    compile: bool
    cuda_graph: bool
    fast: bool = False
    deterministic: bool = False
    tf32: bool = True
    device: str
    threads: int | None = ruled(number(1, at_most=1024))
    data_dir: str
    output_dir: str
    results_dir: str
    sweep: str | None
    held: str = ruled(one_of("wait", "skip"))
    measure: str | None = ruled(one_of("memory", "flops", "speed", "overhead", "pipeline"))
    show: str | None = ruled(one_of(*SHOWN))

    @property
    def replicas(self) -> int:
        """How many processes take a part of every batch each."""
        return (self.processes or 1) if self.parallel.name == "data" else 1


@cache
def fields(method: type[Method], backbone: type[BackboneConfig]) -> tuple[tuple[str, dataclasses.Field], ...]:
    """Every leaf of the schema by its dotted name, with the classes of the chosen rule and family."""
    return tuple(_leaves({OwnSettings: own_settings(method), BackboneConfig: backbone}, Config, ""))


def _leaves(chosen: dict[type, type], cls: type, path: str) -> Iterator[tuple[str, dataclasses.Field]]:
    kinds = get_type_hints(cls)
    for entry in dataclasses.fields(cls):
        kind = chosen.get(kinds[entry.name], kinds[entry.name])
        if dataclasses.is_dataclass(kind):
            yield from _leaves(chosen, cast("type", kind), f"{path}{entry.name}.")
        else:
            yield f"{path}{entry.name}", entry


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested dicts with its dotted name."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
