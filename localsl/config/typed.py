"""Converts a composed configuration to the schema's dataclasses, and checks single values."""

from __future__ import annotations

import copy
import dataclasses
import difflib
from functools import cache
from typing import Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from localsl import backbones, methods
from localsl.backbones import BackboneConfig
from localsl.config.command import Command
from localsl.config.composition import REFUSED, groups
from localsl.config.fields import built, fields, leaves, own_settings
from localsl.config.schema import OwnSettings
from localsl.core.settings import Problem, first_line
from localsl.methods.base import Method

UNKNOWN = object()


def typed(raw: DictConfig) -> tuple[Command | None, list[Problem]]:
    """Convert a composed configuration to dataclasses; None with the problems of single values if that fails."""
    try:
        container = OmegaConf.to_container(raw, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        return None, [Problem(str(error.full_key), "", first_line(error))]
    given = dict(leaves(container))
    rule, family = given.get("method.rule"), given.get("backbone.family")
    if rule not in methods.names():
        return None, [Problem("method.rule", rule, f"one of {', '.join(methods.names())}")]
    if family not in backbones.families():
        return None, [Problem("backbone.family", family, f"one of {', '.join(backbones.families())}")]
    classes = methods.find(rule), backbones.find(family)
    known = dict(fields(*classes))
    schema: DictConfig | None = None
    problems = []
    for path, value in given.items():
        if path not in known:
            problems.append(unknown(f"+{path}", value, list(known)))
            continue
        rule = known[path].metadata.get("rule")
        try:
            given[path] = _of_type(value, known[path].type)
            if given[path] is UNKNOWN:
                schema = copy.deepcopy(_schema(*classes)) if schema is None else schema
                given[path] = _converted(schema, path, value)
            if rule is not None and given[path] is not None and not rule.holds(given[path]):
                problems.append(Problem(path, value, rule.allowed, rule.instead))
        except REFUSED:
            instead = rule.instead if rule is not None else ""
            problems.append(Problem(path, value, f"must be {_type_in_words(known[path].type)}", instead))
    for path, field in known.items():
        if path not in given and field.default is field.default_factory is dataclasses.MISSING:
            problems.append(Problem(path, "", "has no value and needs one"))
    if problems:
        return None, problems
    return built(*classes, given), []


def _of_type(value: Any, kind: Any) -> Any:
    """The value if it fits an annotation such as "list[float] | None", with whole numbers as floats; else UNKNOWN.

    It spares most values OmegaConf's conversion, which takes a millisecond.
    """
    allowed = (kind.__name__ if isinstance(kind, type) else str(kind)).split(" | ")
    name = type(value).__name__ if value is not None else "None"
    if name in allowed:
        return value
    if type(value) is int and "float" in allowed:
        return float(value)
    if isinstance(value, list):
        for inner in (text[5:-1] for text in allowed if text.startswith("list[")):
            values = [_of_type(item, inner) for item in value]
            if UNKNOWN not in values:
                return values
    return UNKNOWN


def _converted(schema: DictConfig, path: str, value: Any) -> Any:
    """A value as the field's type, for example 1 as 1.0.

    Raises:
        REFUSED: if it is of another type.
    """
    OmegaConf.update(schema, path, value)
    typed = OmegaConf.select(schema, path)
    return OmegaConf.to_container(typed) if OmegaConf.is_config(typed) else typed


@cache
def _schema(method: type[Method], backbone: type[BackboneConfig]) -> DictConfig:
    """The schema of a configuration with this rule and family, without values. Callers must copy it."""
    schema = OmegaConf.structured(Command)
    chosen = {OwnSettings: own_settings(method), BackboneConfig: backbone}
    for name, kind in get_type_hints(Command).items():
        if dataclasses.is_dataclass(kind):
            schema[name] = OmegaConf.structured(chosen.get(cast("type", kind), kind))
    return schema


def _type_in_words(kind: Any) -> str:
    """A type in words for users, from an annotation such as "int | None"."""
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    words |= {"list[float]": "a list of numbers", "list[int]": "a list of whole numbers"}
    words |= {"list[str]": "a list of names", "None": "null"}
    text = kind.__name__ if isinstance(kind, type) else str(kind)
    return " or ".join(words.get(part, part) for part in text.split(" | "))


def unknown(key: str, value: Any, known: list[str]) -> Problem:
    """A key that the schema does not have, with the nearest known one or group of conf/, or those of its group."""
    name = key.lstrip("+")
    near = nearest(name, known if "." in name else [*groups(), *known])
    siblings = [k for k in known if k.rpartition(".")[0] == name.rpartition(".")[0]]
    instead = near or (
        f"known keys: {', '.join(siblings)}" if siblings else "python run.py --help lists all keys"
    )
    return Problem(key, value, "unknown key", instead)


def nearest(name: str, known: list[str], prefix: str = "") -> str:
    """A question for the known name that is most like this one; empty if none is."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {prefix}{match[0]}?" if match else ""
