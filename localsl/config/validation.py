"""Composition of a configuration from the command line, with checks of everything that was typed."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from localsl.config import backbone_run, building, consistency
from localsl.config.command import Command
from localsl.config.composition import (
    REFUSED,
    Composition,
    by_hydra,
    field_of,
    hydras_keys,
    key_of,
    options,
    searched,
)
from localsl.config.fields import leaves
from localsl.config.places import at_home
from localsl.config.typed import nearest, typed, unknown
from localsl.core.settings import ConfigError, Problem, first_line
from localsl.data import sources
from localsl.data.settings import DatasetSettings
from localsl.execution.processes import started

__all__ = ["ConfigError", "compose", "validate"]


def compose(overrides: Sequence[str] = (), composition: Composition | None = None) -> Command:
    """Compose and validate the configuration for command-line overrides such as ["method=dgl", "K=16"].

    Args:
        composition: a `Composition` shared by several calls, so that configuration files are read only once.

    Raises:
        ConfigError: with every problem found: overrides that cannot be composed, unknown keys, wrong types, values
            out of range, and values that conflict.
    """
    hydra = composition or Composition(searched(overrides))
    kept, raw, problems, replaced = _composable(list(overrides), hydra)
    config, wrong = typed(raw)
    while config is None:  # drop the wrong values and check again, to report further problems too
        problems += [problem for problem in wrong if problem not in problems]
        keys = {problem.key.lstrip("+") for problem in wrong}
        before, kept = kept, [o for o in kept if not any(_touches(o, key) for key in keys)]
        if kept == before:
            raise ConfigError(problems)
        config, wrong = typed(hydra(kept))
    if not replaced:  # otherwise the conflicts would be those of a default choice, which nobody typed
        before = config
        config, more = _resolved(config, known=hydra.known)
        if config.task.name == "detection" and not more:
            more = list(backbone_run.retyped(overrides, before, config))
        reported = {problem.key for problem in problems}
        problems += [problem for problem in more if problem.key not in reported]
    if problems:
        raise ConfigError(problems)
    return config


def validate(raw: DictConfig, *, to_run: bool = True, known: sources.Known | None = None) -> Command:
    """Convert a configuration composed by Hydra to its typed form, and check it as `compose` does.

    Args:
        to_run: whether the run is to be trained; if not, it is not checked whether this machine can train it.
        known: the contents of image folders that were read before.

    Raises:
        ConfigError: with every problem found.
    """
    config, problems = typed(raw)
    if config is not None:
        config, problems = _resolved(config, to_run, known)
    if config is None or problems:
        raise ConfigError(problems)
    return config


def _composable(
    overrides: list[str], hydra: Composition
) -> tuple[list[str], DictConfig, list[Problem], set[str]]:
    """Separate the overrides that Hydra accepts from those that it refuses.

    Returns:
        The accepted overrides, what they compose to, a problem for each other override, and the groups whose choice
        was refused, which therefore have their default choice.
    """
    deletions = [o for o in overrides if o.startswith("~") and not o.startswith("~hydra")]
    problems = [Problem(o, "", "parts of a configuration cannot be deleted") for o in deletions]
    overrides = [o for o in overrides if o not in deletions]
    with contextlib.suppress(*REFUSED):
        return overrides, hydra(overrides), problems, set()
    kept: list[str] = []
    replaced = set()
    # Choices come first because they decide which keys exist.
    for override in sorted(overrides, key=lambda o: not (key_of(o) in hydra.groups or "/" in key_of(o))):
        try:
            hydra([*kept, override])
        except REFUSED as error:
            if key_of(override) in hydra.groups:
                replaced.add(field_of(override))
            elif key_of(override).split(".")[0] in replaced:
                continue  # it may be a key of the intended choice
            problems.append(_refusal(override, [*hydra.search, *kept], error, hydra.search))
        else:
            kept.append(override)
    return kept, hydra(kept), problems, replaced


def _touches(override: str, key: str) -> bool:
    """Whether an override sets this value, one that contains it, or one inside it."""
    name = field_of(override)
    return name == key or name.startswith(f"{key}.") or key.startswith(f"{name}.")


def _refusal(override: str, kept: list[str], error: Exception, search: Sequence[str]) -> Problem:
    key, equals, value = override.partition("=")
    name = key_of(override)
    if not equals or not name:
        return Problem(override, "", "must be key=value")
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as parse_error:
        return Problem(key, value, f"cannot be parsed ({first_line(parse_error)})", _quoting_hint(key, value))
    if parsed.is_sweep_override():
        single = f"; {_quoting_hint(key, value)} if it is one value" if "(" not in value else ""
        return Problem(key, value, "several values form a sweep", f"add -m to run them all{single}")
    choices = options(name, search)
    if choices:
        return Problem(key, value, f"one of {', '.join(choices)}", nearest(value, choices, f"{name}="))
    known = _known(name, kept)
    if name not in known:
        return unknown(key, value, known)
    return Problem(key, value, first_line(error))


def _quoting_hint(key: str, value: str) -> str:
    """What to type for a value that Hydra cannot parse: the value quoted for Hydra and for the shell.

    Empty if quotation marks would not help.
    """
    escaped = value.replace('"', '\\"')
    override = f'{key}="{escaped}"'
    with contextlib.suppress(HydraException):
        if value and str(OverridesParser.create().parse_override(override).value()) == value:
            return f"put quotes around it: type {shlex.quote(override)}"
    return ""


def _known(name: str, overrides: list[str]) -> list[str]:
    """All keys that could have been meant by `name`: those of Hydra, or those of the run."""
    if name.startswith(("hydra/", "hydra.")):
        return hydras_keys(overrides)
    return [path for path, _ in leaves(OmegaConf.to_container(by_hydra(overrides)))]


def _resolved(
    config: Command, to_run: bool = True, known: sources.Known | None = None
) -> tuple[Command, list[Problem]]:
    """Fill in the values that follow from the data set and the method, and find the conflicts."""
    config, problems = at_home(config)
    # Completed runs, which are also what analyses use, have recorded their data set; its files may be gone.
    if to_run and config.analysis.kind == "none":
        try:
            dataset = _described(config, known)
            config = dataclasses.replace(config, dataset=dataset)
        except ConfigError as error:
            problems += error.problems
    launched = started().size
    if config.processes is None:
        config = dataclasses.replace(config, processes=launched)
    if to_run:
        problems += consistency.problems(config, launched)
    if config.task.name == "detection":
        config, unfit = backbone_run.resolved(config, compose, typed)
        return config, problems + unfit
    if config.backbone_run is not None:
        what = "applies to detection only"
        problems.append(Problem("backbone_run", config.backbone_run, what, "type task=detection too"))
    unfit = list(config.backbone.problems())
    if not unfit:
        single = config.method.single_module
        unfit = list(building.partition_of(config).problems(single_module=single))
    if not unfit:  # the following needs valid layers and cuts
        config = building.resolved(config)
        if config.fast:
            config = dataclasses.replace(config, **consistency.fastest(config, building.method_of(config)))
        unfit = building.problems(config)
    problems += unfit
    return config, problems


def _described(config: Command, known: sources.Known | None) -> DatasetSettings:
    """The settings of the data set, completed with what its files contain.

    Raises:
        ConfigError: if the settings are wrong, or do not fit the files.
    """
    if config.task.name == "detection":
        from localsl.detection import sources as scenes  # imported here because classification does not need it

        return scenes.described(config.dataset, config.data_dir)
    return sources.described(config.dataset, config.data_dir, known)
