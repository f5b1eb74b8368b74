"""The run whose trained backbone a detector starts from: how it is found, and what is taken from it."""

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

# The fields that describe the network and its training; a detector takes them from its backbone's run.
TAKEN = ("method", "backbone", "aux", "ema", "partition", "K")

# The values that detection requires of the fields about execution, and the reason for each.
REQUIRED = {
    "memory": ("plain", "activations are kept as they are"),
    "compile": (False, "torchvision's detectors are not compiled"),
    "cuda_graph": (False, "the number of proposals differs between steps"),
    "sync_batchnorm": (False, "the statistics of BatchNorm are frozen"),
    "measure": (None, "only classification is measured"),
}

Typed = Callable[[DictConfig], tuple[Command | None, list[Problem]]]


def resolved(
    config: Command, compose: Callable[[Sequence[str]], Command], typed: Typed
) -> tuple[Command, list[Problem]]:
    """Complete the configuration of a detector with the fields of its backbone's run.

    `backbone_run` becomes the id of that run.

    Args:
        compose: returns the configuration for command-line overrides.
        typed: returns the configuration for the values of a run's config.yaml, and the problems found.
    """
    text = config.backbone_run
    if text is None:
        instead = 'type backbone_run=ID, or backbone_run="method=bp dataset=imagenet backbone=resnet34"'
        return config, [Problem("backbone_run", None, "detection needs the run of a trained backbone", instead)]
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
    except ValueError as error:  # shlex: unbalanced quotes
        return config, [Problem("backbone_run", text, f"cannot be read ({first_line(error)})")]
    taken = {name: getattr(trained, name) for name in TAKEN}
    own = {"backbone_run": run_id(trained), "backbone_folder": None if folder is None else str(folder)}
    config = replace(config, **taken, **own)
    return config, list(_problems(config, trained))


def retyped(overrides: Sequence[str], before: Command, config: Command) -> Iterator[Problem]:
    """Yield the overrides of the network or its training that differ from the backbone's run."""
    old, new = (dict(leaves(dataclasses.asdict(cfg))) for cfg in (before, config))
    for override in overrides:
        name = field_of(override)
        if name.split(".")[0] not in TAKEN or (name == "K" and config.method.single_module):
            continue
        keys = [key for key in old if key == name or key.startswith(f"{name}.")]
        if any(old[key] is not None and old[key] != new.get(key) for key in keys):
            what = f"run {config.backbone_run} trained {config.backbone.name} with {config.method.name}, K={config.K}"
            yield Problem(override.split("=")[0], override.partition("=")[2], what, "leave it out")


def found_folder(text: str, config: Config) -> Path:
    """The folder of a run, from the path of the folder or from the run's id.

    Raises:
        ConfigError: if no such run is found.
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
    what = "is not a run"
    instead = (
        "type an id listed by python run.py show=runs (with its output_dir=), a folder, or a run's overrides"
    )
    raise ConfigError([Problem("backbone_run", text, what, instead)])


def _stored(folder: Path, config: Command, typed: Typed) -> Command:
    """The configuration stored in the folder of a run.

    Raises:
        ConfigError: if it cannot be read, or does not fit this version of the code.
    """
    found, described = None, {}
    try:
        values: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        described = {name: values["dataset"].pop(name, None) for name in ("classes", "files", "digest")}
        values.pop("backbone_folder", None)
        places = {key: getattr(config, key) for key in ("data_dir", "output_dir", "results_dir")}
        found, problems = typed(DictConfig({"logger": {"name": "csv"}, **places} | values))
    except (OSError, LookupError, TypeError, ValueError, YAMLError) as error:
        problems = [Problem("config.yaml", "", first_line(error))]
    if found is None:
        what = f"the configuration in {folder} cannot be read: {'; '.join(map(str, problems))}"
        raise ConfigError([Problem("backbone_run", config.backbone_run, what)])
    return replace(found, dataset=replace(found.dataset, **described))


def _problems(config: Command, trained: Command) -> Iterator[Problem]:
    if trained.task.name != "classification":
        what = "is a detection run"
        yield Problem("backbone_run", config.backbone_run, what, f"type backbone_run={trained.backbone_run}")
    if not isinstance(config.backbone, StagedConfig):
        what = f"{config.backbone.name} has no stages, which a feature pyramid needs"
        yield Problem("backbone_run", config.backbone_run, what, "type the run of a ResNet")
    else:
        yield from config.detector.problems(len(config.backbone.blocks), config.dataset.image_size)
    for key, (required, why) in REQUIRED.items():
        value = getattr(config, key)
        if value != required:
            yield Problem(key, value, f"does not apply to detection: {why}", "leave it out")
    if config.parallel.name != "data":
        yield Problem("parallel", config.parallel.name, "a detector is one module", "type parallel=data")
    if config.optimizer.per_module:
        yield Problem("optimizer.per_module", True, "a detector is one module", "leave it out")
    if config.analysis.kind != "none":
        yield Problem("analysis", config.analysis.kind, "applies to classification only", "leave task out")
