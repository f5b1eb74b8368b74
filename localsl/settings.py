"""The typed schema of a run's configuration: what values there are, and what each allows.

A field that joins it after runs were recorded has a default here: the value that those runs mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import cast, get_type_hints

from localsl.aux_nets.terms import HEADS
from localsl.backbones.base import SCALES, BackboneConfig
from localsl.methods.base import Method
from localsl.schema import ascending, derived, ends, number, one_of, ruled, triple


@dataclass(kw_only=True)
class DatasetConfig:
    """Images and how they are normalised and augmented (conf/dataset)."""

    name: str
    sgd_lr: float = ruled(number(above=0), default=0.1)
    num_classes: int = ruled(number(0, at_most=2**20))
    image_size: int = ruled(number(4, at_most=1024))
    mean: list[float] = ruled(triple())
    std: list[float] = ruled(triple(above=0))
    padding: int = ruled(number(0, at_most=128))
    padding_mode: str = ruled(one_of("reflect", "zero"))
    flip: bool
    train_subset: int | None = ruled(number(1, instead="null takes all images"))
    test_subset: int | None = ruled(number(1, instead="null takes all images"))
    root: str | None
    crop: str = ruled(one_of("padded", "resized"), default="padded")
    workers: int | None = ruled(number(0, at_most=1024, instead="null is one a core"), default=None)
    skip_broken: bool = False
    top5: bool = False
    # Data that are not as published enter a run's identity by what they hold, not by where they lie.
    classes: list[str] | None = derived()
    files: list[int] | None = derived()
    digest: str | None = derived()


@dataclass(kw_only=True)
class AuxConfig:
    """The auxiliary network of a module (conf/aux_net)."""

    head: str = ruled(one_of(*HEADS))
    loss: str = ruled(one_of("softmax", "contrastive"))
    feature_dim: int = ruled(number(1))
    pool_target: int = ruled(number(1))
    zero_start: bool = False
    depth: int | None = ruled(number(2, instead="d counts the classifier: d=2 is one layer before it"))
    selection: str
    pyramid: float | None = ruled(number(0, at_most=1))
    multiplier: float | None = ruled(number(above=0))
    lambda_ce: list[float] | None = ruled(ends())
    lambda_reconstruction: list[float] | None = ruled(ends())
    lambda_similarity: list[float] = ruled(ends())
    lambda_over: str | None = ruled(one_of("module", "stage", "next_stage"))
    scale: str | None = ruled(one_of(*SCALES), default="cifar")


@dataclass(kw_only=True)
class EmaConfig:
    """Layers that follow later ones (conf/ema)."""

    source: str = ruled(one_of("none", "momentum", "copy"))
    momentum: float = ruled(number(0, at_most=1), default=0.995)
    gradient: bool | None = False
    bias: str = ruled(one_of("none", "block", "channel"), default="none")
    start: str | None = ruled(one_of("copy", "fresh"), default="copy")
    bias_start: str = ruled(one_of("follower", "own"), default="follower")
    layers: str = ruled(one_of("all", "first"), default="all")
    moves: str | None = ruled(one_of("all", "last", "last_twice"), default="all")

    @property
    def m(self) -> float:
        """MAN's m (its eq. 7) of a layer that moves: 0 for a copy, which is the live layer after every step."""
        return 0.0 if self.source == "copy" else self.momentum

    def resolved(self) -> EmaConfig:
        """The same with the values that another field makes meaningless at their defaults.

        A copy takes no gradient step, and only a bias that is a block has weights to start from.
        """
        return dataclasses.replace(
            self,
            gradient=False if self.source == "copy" else self.gradient,
            bias_start=self.bias_start if self.bias == "block" else "follower",
        )


@dataclass(kw_only=True)
class OptimizerConfig:
    """How gradients become updates (conf/optimizer)."""

    name: str = ruled(one_of("sgd", "adam"))
    lr: float = ruled(number(above=0, instead="the papers' is 0.8 for batches of 1024, 0.1 for 128"))
    momentum: float = ruled(number(0, below=1))
    beta2: float = ruled(number(0, below=1), default=0.0)
    nesterov: bool
    weight_decay: float = ruled(number(0))
    per_module: bool = False


@dataclass(kw_only=True)
class ScheduleConfig:
    """Epochs and learning rate (conf/schedule)."""

    name: str
    epochs: int = ruled(number(1, at_most=10**6))
    warmup_epochs: int = ruled(number(0))
    warmup_lr: float = ruled(number(0))
    milestones: list[int] = ruled(ascending(), default_factory=list)
    decay: float = ruled(number(above=0, at_most=1), default=1.0)
    zero_based: bool = False


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
    batch_size: int | None = ruled(number(2, at_most=2**20), default=None)
    lr: float | None = ruled(number(above=0), default=None)


@dataclass(kw_only=True)
class PartitionConfig:
    """How K becomes groups of local layers."""

    stem: str = ruled(one_of("own", "merged"))
    balance: str = ruled(one_of("depth", "memory"))
    join_last: bool | None = None


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


KINDS = ("none", "cka", "probes", "feature_maps", "convergence", "pyramid", "tradeoff")


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


@dataclass(kw_only=True)
class Config:
    """One run. conf/config.yaml says what each value means."""

    method: Method
    dataset: DatasetConfig
    backbone: BackboneConfig
    aux: AuxConfig
    ema: EmaConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    logger: LoggerConfig
    partition: PartitionConfig
    checkpoint: CheckpointConfig
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    runs: list[str] = field(default_factory=list)
    K: int = ruled(number(instead="for example K=16"))
    batch_size: int = ruled(number(2, at_most=2**20, instead="BatchNorm needs two images"))
    seed: int = ruled(number(0, at_most=2**53))
    precision: str = ruled(one_of("fp32", "bf16"))
    processes: int | None = ruled(number(1, at_most=2**16), default=1)
    sync_batchnorm: bool = False
    channels_last: bool
    memory: str = ruled(one_of("plain", "lean"))
    compile: bool
    cuda_graph: bool
    deterministic: bool = False
    device: str
    threads: int | None = ruled(number(1, at_most=1024))
    data_dir: str
    output_dir: str
    results_dir: str
    sweep: str | None
    held: str = ruled(one_of("wait", "skip"))
    measure: str | None = ruled(one_of("memory", "flops", "speed", "overhead"))
    show: str | None = ruled(one_of("modules", "runs", "bench", "jobs", "status", "tables", "report"))


@cache
def fields(method: type[Method], backbone: type[BackboneConfig]) -> tuple[tuple[str, dataclasses.Field], ...]:
    """Every leaf of the schema by its dotted name, with the classes of the chosen rule and family."""
    return tuple(_leaves({Method: method, BackboneConfig: backbone}, Config, ""))


def _leaves(chosen: dict[type, type], cls: type, path: str) -> Iterator[tuple[str, dataclasses.Field]]:
    kinds = get_type_hints(cls)
    for entry in dataclasses.fields(cls):
        kind = chosen.get(kinds[entry.name], kinds[entry.name])
        if dataclasses.is_dataclass(kind):
            yield from _leaves(chosen, cast(type, kind), f"{path}{entry.name}.")
        else:
            yield f"{path}{entry.name}", entry
