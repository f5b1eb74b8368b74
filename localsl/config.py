"""The configuration: its typed schema, how it is composed, and every check on what a user typed."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

import hydra
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from localsl import backbones, methods, partition
from localsl.data import folder
from localsl.data.sources import SOURCES
from localsl.methods.base import Method
from localsl.schema import ConfigError, Problem, number, one_of, ruled, triple

__all__ = ["Config", "ConfigError", "compose", "validate"]

CONF = Path(__file__).resolve().parent.parent / "conf"


@dataclass(kw_only=True)
class DatasetConfig:
    """Images and how they are normalised and augmented (conf/dataset)."""

    name: str
    num_classes: int = ruled(number(0))
    image_size: int = ruled(number(4))
    mean: list[float] = ruled(triple())
    std: list[float] = ruled(triple(above=0))
    padding: int = ruled(number(0))
    padding_mode: str = ruled(one_of("reflect", "zero"))
    flip: bool
    train_subset: int | None = ruled(number(1, instead="null takes all images"))
    test_subset: int | None = ruled(number(1, instead="null takes all images"))
    root: str | None
    # A folder of one's own enters a run's identity by what it holds, not by where it lies.
    classes: list[str] | None = None
    files: int | None = None


@dataclass(kw_only=True)
class BackboneConfig:
    """A network as an ordered list of local layers (conf/backbone).

    `family` is a file of localsl/backbones.
    """

    name: str
    family: str
    blocks: list[int]
    widths: list[int]


@dataclass(kw_only=True)
class AuxConfig:
    """The auxiliary network of a module (conf/aux_net)."""

    head: str = ruled(one_of("none", "dgl"))


@dataclass(kw_only=True)
class OptimizerConfig:
    """SGD (conf/optimizer)."""

    name: str = ruled(one_of("sgd"))
    lr: float = ruled(number(above=0))
    momentum: float = ruled(number(0, below=1))
    nesterov: bool
    weight_decay: float = ruled(number(0))


@dataclass(kw_only=True)
class ScheduleConfig:
    """Epochs and learning rate (conf/schedule)."""

    name: str
    epochs: int = ruled(number(1))
    warmup_epochs: int = ruled(number(0))
    warmup_lr: float = ruled(number(0))


@dataclass(kw_only=True)
class PartitionConfig:
    """How K becomes groups of local layers."""

    stem: str = ruled(one_of("own", "merged"))
    balance: str = ruled(one_of("depth", "memory"))


@dataclass(kw_only=True)
class LoggerConfig:
    """Where metrics go beside the run's folder (conf/logger)."""

    name: str = ruled(one_of("csv", "wandb"))
    project: str = "localsl"
    entity: str | None = None
    mode: str = ruled(one_of("auto", "online", "offline", "disabled"), default="auto")


@dataclass(kw_only=True)
class Config:
    """One run. conf/config.yaml says what each value means."""

    method: Method
    dataset: DatasetConfig
    backbone: BackboneConfig
    aux: AuxConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    logger: LoggerConfig
    partition: PartitionConfig
    K: int
    batch_size: int = ruled(number(2, instead="BatchNorm needs two images"))
    seed: int = ruled(number(0, below=2**63))
    precision: str = ruled(one_of("fp32", "bf16"))
    device: str
    threads: int | None = ruled(number(1))
    data_dir: str
    output_dir: str
    show: str | None = ruled(one_of("modules"))


def compose(overrides: Sequence[str] = ()) -> Config:
    """The validated configuration for a list of command-line overrides such as ["method=dgl", "K=16"].

    Raises:
        ConfigError: with every problem found: overrides that do not compose, unknown keys, wrong
            types, values out of range, and values that do not go together.
    """
    kept, problems = list(overrides), []
    try:
        raw = _hydra(kept)
    except (HydraException, OmegaConfBaseException):
        kept, problems = _composable(kept)
        raw = _hydra(kept)
    config, wrong = _typed(raw)
    if wrong:  # look at the rest with the wrong values set aside, so that all problems are told together
        problems += wrong
        keys = {problem.key.lstrip("+") for problem in wrong}
        kept = [o for o in kept if o.split("=")[0].lstrip("+~") not in keys]
        config, _ = _typed(_hydra(kept))
    if config is not None:
        config, more = _resolved(config)
        told = {problem.key for problem in problems}
        problems += [problem for problem in more if problem.key not in told]
    if config is None or problems:
        raise ConfigError(problems)
    return config


def validate(raw: DictConfig) -> Config:
    """The typed configuration of one that Hydra composed, checked as `compose` does.

    Raises:
        ConfigError: with every problem found.
    """
    config, problems = _typed(raw)
    if config is not None:
        config, problems = _resolved(config)
    if config is None or problems:
        raise ConfigError(problems)
    return config


def _hydra(overrides: list[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", overrides)


def _composable(overrides: list[str]) -> tuple[list[str], list[Problem]]:
    """The overrides that Hydra takes, and one problem for each that it does not."""
    kept: list[str] = []
    problems = []
    groups = {str(p.relative_to(CONF)) for p in CONF.rglob("*") if p.is_dir()}
    # Choices first: they decide which keys there are.
    for override in sorted(overrides, key=lambda o: o.split("=")[0] not in groups):
        try:
            _hydra([*kept, override])
        except (HydraException, OmegaConfBaseException) as error:
            problems.append(_refusal(override, groups, kept, error))
        else:
            kept.append(override)
    return kept, problems


def _refusal(override: str, groups: set[str], kept: list[str], error: Exception) -> Problem:
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    if not equals:
        return Problem(override, "", "must be key=value")
    if name in groups and not key.startswith("~"):
        choices = sorted(p.stem for p in (CONF / name).glob("*.yaml"))
        return Problem(key, value, f"one of {', '.join(choices)}", _nearest(value, choices, f"{name}="))
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as parse_error:
        return Problem(key, value, f"cannot be read ({str(parse_error).splitlines()[0]})")
    if parsed.is_sweep_override():
        return Problem(key, value, "several values are a sweep", "add -m to run them all")
    known = [path for path, _ in _leaves(OmegaConf.to_container(_hydra(kept)))]
    if name not in known:
        return _unknown(key, value, known)
    return Problem(key, value, str(error).splitlines()[0])


def _unknown(key: str, value: Any, known: list[str]) -> Problem:
    here = [k for k in known if k.startswith(key.lstrip("+").rpartition(".")[0])]
    near = _nearest(key.lstrip("+"), known)
    return Problem(key, value, "unknown key", near or f"known here: {', '.join(here or known)}")


def _nearest(name: str, known: list[str], prefix: str = "") -> str:
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {prefix}{match[0]}?" if match else ""


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _typed(raw: DictConfig) -> tuple[Config | None, list[Problem]]:
    """The configuration as dataclasses, or None and what is wrong with single values."""
    try:
        container = OmegaConf.to_container(raw, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        return None, [Problem(str(error.full_key), "", str(error).splitlines()[0])]
    assert isinstance(container, dict)
    name = OmegaConf.select(raw, "method.name")
    if name not in methods.names():
        return None, [Problem("method.name", name, f"one of {', '.join(methods.names())}")]
    method = methods.find(name)
    schema = OmegaConf.structured(Config)
    for name, kind in get_type_hints(Config).items():
        if dataclasses.is_dataclass(kind):
            schema[name] = OmegaConf.structured(method if kind is Method else kind)
    fields = dict(_fields(Config, method))
    problems = []
    for path, value in _leaves(container):
        if path not in fields:
            problems.append(_unknown(f"+{path}", value, list(fields)))
            continue
        try:
            OmegaConf.update(schema, path, value)
        except OmegaConfBaseException:
            problems.append(Problem(path, value, f"must be {_in_words(fields[path].type)}"))
            continue
        rule = fields[path].metadata.get("rule")
        value = OmegaConf.select(schema, path)
        if rule is not None and value is not None and not rule.holds(value):
            problems.append(Problem(path, value, rule.allowed, rule.instead))
    wrong = {problem.key for problem in problems}
    for path in fields:
        if path not in wrong and OmegaConf.is_missing(schema, path):
            problems.append(Problem(path, "", "has no value and cannot be left out"))
    if problems:
        return None, problems
    config = OmegaConf.to_object(schema)
    assert isinstance(config, Config)
    return config, []


def _fields(cls: type, method: type[Method], path: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Every leaf of the schema by its dotted path, with `method` as the chosen method's class."""
    kinds = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = method if kinds[field.name] is Method else kinds[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _fields(cast(type, kind), method, f"{path}{field.name}.")
        else:
            yield f"{path}{field.name}", field


def _in_words(kind: Any) -> str:
    """A type as a user would say it, from an annotation such as "int | None"."""
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    words |= {"list[float]": "a list of numbers", "list[int]": "a list of whole numbers"}
    words |= {"list[str]": "a list of names", "None": "null"}
    return " or ".join(words[part] for part in str(kind).split(" | "))


def _resolved(config: Config) -> tuple[Config, list[Problem]]:
    """The configuration with what a folder of images tells filled in, and what does not go together."""
    problems = []
    try:
        config = dataclasses.replace(config, dataset=_described(config.dataset))
    except ConfigError as error:
        problems += error.problems
    if config.optimizer.nesterov and config.optimizer.momentum == 0:
        what = "Nesterov needs a momentum above 0"
        problems.append(Problem("optimizer.momentum", 0, what, "or type optimizer.nesterov=false"))
    problems += _device_problems(config.device)
    broken = list(backbones.problems(config.backbone))
    problems += broken
    if not broken:  # what follows asks the backbone for its layers
        problems += partition.problems(config)
        problems += config.method.problems(config)
    return config, problems


def _described(dataset: DatasetConfig) -> DatasetConfig:
    """The data set with its classes counted, where it is a folder; raises ConfigError on what cannot be."""
    if dataset.name not in SOURCES:
        raise ConfigError([Problem("dataset.name", dataset.name, f"one of {', '.join(SOURCES)}")])
    if dataset.name == "imagefolder":
        if dataset.root is None:
            what = "must name a folder that holds train/<class>/ and test/<class>/"
            raise ConfigError([Problem("dataset.root", None, what, "type dataset.root=FOLDER")])
        classes, files = folder.contents(Path(dataset.root))
        count = dataset.num_classes or len(classes)
        dataset = dataclasses.replace(dataset, num_classes=count, classes=classes, files=files)
    elif dataset.root is not None:
        what = f"{dataset.name} is not read from a folder of images"
        instead = "type dataset=imagefolder for your own pictures, data_dir=FOLDER for the data set"
        raise ConfigError([Problem("dataset.root", dataset.root, what, instead)])
    problems = []
    if dataset.num_classes < 2:
        problems.append(Problem("dataset.num_classes", dataset.num_classes, "must be at least 2"))
    if dataset.padding_mode == "reflect" and dataset.padding >= dataset.image_size:
        what = f"reflection needs less than dataset.image_size={dataset.image_size}"
        problems.append(Problem("dataset.padding", dataset.padding, what))
    if problems:
        raise ConfigError(problems)
    return dataset


def _device_problems(device: str) -> Iterator[Problem]:
    kind, _, index = device.partition(":")
    if device not in ("auto", "cpu") and not (kind == "cuda" and (index.isdigit() or not index)):
        yield Problem("device", device, "one of auto, cpu, cuda, cuda:0, cuda:1, ...")
    elif kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        what = f"this machine has {torch.cuda.device_count()} CUDA devices that torch can use"
        yield Problem("device", device, what, "type device=cpu")


def check_command_line(arguments: Sequence[str]) -> list[Config]:
    """The configuration of every job that a command line stands for, all checked before the first starts.

    Empty where Hydra only prints something (`--cfg`, `--help` and their like).

    Raises:
        ConfigError: with the problems of all jobs together.
    """
    flags = get_args_parser().parse_args(list(arguments))
    if flags.cfg or flags.help or flags.hydra_help or flags.info or flags.shell_completion:
        return []
    jobs = [flags.overrides]
    if flags.multirun:
        try:
            parsed = OverridesParser.create().parse_overrides(flags.overrides)
        except HydraException:
            parsed = []  # told as single problems below
        else:
            jobs = BasicSweeper.split_arguments(parsed, None)[0]
    configs, problems = [], []
    for overrides in jobs:
        try:
            configs.append(compose(overrides))
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return configs
