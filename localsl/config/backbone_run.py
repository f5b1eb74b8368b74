"""Detection starts from the backbone of a run: which run that is, and what a detector takes from it."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from localsl.backbones.base import StagedConfig
from localsl.config.command import Command
from localsl.config.composition import field_of
from localsl.config.fields import leaves
from localsl.config.identity import run_id
from localsl.config.schema import Config
from localsl.core.settings import ConfigError, Problem, first_line

# What describes the network and how it was trained, and is the backbone's run's.
TAKEN = ("method", "backbone", "aux", "ema", "partition", "K")

# What a detector is not executed by, and what it is by.
PLAIN = {
    "memory": ("plain", "activations are kept as they are"),
    "compile": (False, "torchvision's detectors are not compiled"),
    "cuda_graph": (False, "the number of proposals differs from step to step"),
    "sync_batchnorm": (False, "BatchNorm's statistics are frozen"),
    "measure": (None, "is of classification"),
}

Typed = Callable[[DictConfig], tuple[Command | None, list[Problem]]]


def resolved(
    config: Command, compose: Callable[[Sequence[str]], Command], typed: Typed
) -> tuple[Command, list[Problem]]:
    """The configuration of a detector with what it takes from the backbone's run, named by its id.

    Args:
        compose: makes the configuration of a run from what is typed for it.
        typed: makes it from the values in its folder.
    """
    text = config.backbone_run
    if text is None:
        instead = 'type backbone_run=ID, or backbone_run="method=bp dataset=imagenet backbone=resnet34"'
        return config, [Problem("backbone_run", None, "detection starts from the backbone of a run", instead)]
    folder = None
    try:
        if "=" in text and not Path(text).exists():
            trained = compose(shlex.split(text))
        else:
            folder = found_folder(text, config)
            trained = _stored(folder, config, typed)
    except ConfigError as error:
        return config, [
            p if p.key == "backbone_run" else replace(p, key=f"backbone_run: {p.key}") for p in error.problems
        ]
    except ValueError as error:  # of quotes without an end
        return config, [Problem("backbone_run", text, f"cannot be read ({first_line(error)})")]
    taken = {name: getattr(trained, name) for name in TAKEN}
    own = {"backbone_run": run_id(trained), "backbone_folder": None if folder is None else str(folder)}
    config = replace(config, **taken, **own)
    return config, list(_problems(config, trained))


def retyped(overrides: Sequence[str], before: Command, config: Command) -> Iterator[Problem]:
    """What was typed of the network or its training and is not so in the backbone's run."""
    one, other = (dict(leaves(dataclasses.asdict(cfg))) for cfg in (before, config))
    for override in overrides:
        name = field_of(override)
        if name.split(".")[0] not in TAKEN or (name == "K" and config.method.single_module):
            continue
        keys = [key for key in one if key == name or key.startswith(f"{name}.")]
        if any(one[key] is not None and one[key] != other.get(key) for key in keys):
            what = f"the run {config.backbone_run} is of {config.method.name}, {config.backbone.name}, K={config.K}"
            yield Problem(override.split("=")[0], override.partition("=")[2], what, "leave it out")


def found_folder(text: str, config: Config) -> Path:
    """The folder of a run, given by itself or by the run's id.

    Raises:
        ConfigError: if there is none.
    """
    places = [Path(text)]
    if re.fullmatch(r"[0-9a-f]{8}", text):
        places += [
            *sorted(Path(config.output_dir).rglob(f"seed=*-{text}")),
            Path(config.results_dir) / "runs" / text,
        ]
    for place in places:
        if (place / "config.yaml").is_file():
            return place
    what = "is no run"
    instead = (
        "type an id that python run.py show=runs lists (output_dir= if elsewhere), a folder, or what trains it"
    )
    raise ConfigError([Problem("backbone_run", text, what, instead)])


def _stored(folder: Path, here: Command, typed: Typed) -> Command:
    """The configuration in the folder of a run.

    Raises:
        ConfigError: if it is not one of this version of the code.
    """
    found, described = None, {}
    try:
        values: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        described = {name: values["dataset"].pop(name, None) for name in ("classes", "files", "digest")}
        values.pop("backbone_folder", None)
        places = {key: getattr(here, key) for key in ("data_dir", "output_dir", "results_dir")}
        found, problems = typed(DictConfig({"logger": {"name": "csv"}, **places} | values))
    except (OSError, LookupError, TypeError, ValueError, YAMLError) as error:
        problems = [Problem("config.yaml", "", first_line(error))]
    if found is None:
        what = f"the configuration in {folder} cannot be read: {'; '.join(map(str, problems))}"
        raise ConfigError([Problem("backbone_run", here.backbone_run, what)])
    return replace(found, dataset=replace(found.dataset, **described))


def _problems(config: Command, trained: Command) -> Iterator[Problem]:
    if trained.task.name != "classification":
        what = "is a detector's run"
        yield Problem("backbone_run", config.backbone_run, what, f"type backbone_run={trained.backbone_run}")
    if not isinstance(config.backbone, StagedConfig):
        what = f"{config.backbone.name} has no stages to build a feature pyramid on"
        yield Problem("backbone_run", config.backbone_run, what, "give the run of a ResNet")
    else:
        yield from config.detector.problems(len(config.backbone.blocks), config.dataset.image_size)
    for key, (plain, why) in PLAIN.items():
        value = getattr(config, key)
        if value != plain:
            yield Problem(key, value, f"is not for detection: {why}", "leave it out")
    if config.parallel.name != "data":
        yield Problem("parallel", config.parallel.name, "a detector is one module", "type parallel=data")
    if config.optimizer.per_module:
        yield Problem("optimizer.per_module", True, "a detector is one module", "leave it out")
    if config.analysis.kind != "none":
        yield Problem("analysis", config.analysis.kind, "is of classification", "leave task out")
