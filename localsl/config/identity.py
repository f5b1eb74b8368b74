"""Which run a configuration is: the part of it that decides the numbers, hashed.

Configurations are taken as dicts, as `dataclasses.asdict` gives them and a run's config.yaml keeps them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import cache
from typing import Any

from localsl import backbones, methods
from localsl.backbones.base import BackboneConfig
from localsl.config.fields import Effect, effects, fields, leaves
from localsl.config.schema import Config
from localsl.core.settings import Affects
from localsl.methods.base import Method


def run_id(cfg: Config) -> str:
    """Eight hexadecimal digits that two runs share exactly if they are the same run."""
    return digest(identity(dataclasses.asdict(cfg)))


def identity(values: dict[str, Any]) -> dict[str, Any]:
    """The values that decide a run's numbers, by their dotted names."""
    return affecting(values, Affects.NUMBERS)


def affecting(values: dict[str, Any], what: Affects, *, setting: bool | None = None) -> dict[str, Any]:
    """The values that affect any of `what`, by their dotted names.

    A field that has a default in the schema is left out at that value, so that a run keeps its identity when
    the schema gets a field. A rule with one module is the same run for every K, only detection has a detector, and
    processes that share out the modules do what one would.

    Args:
        setting: true for those alone that a table's cell leaves open, false for the others.
    """
    method = methods.find(values["method"]["rule"])
    classes = method, backbones.find(values["backbone"]["family"])
    defaults = _defaults(*classes)
    unused = ["K", "partition"] if method.single_module else []
    unused += [] if is_detection(values) else ["detector"]
    unused += ["processes"] if values.get("parallel", {}).get("name") == "modules" else []
    kept = {}
    for path, value in leaves(values):
        effect = _effect(path, effects(*classes))
        wanted = bool(effect.affects & what) and setting in (None, effect.setting)
        if wanted and (path not in defaults or defaults[path] != value):
            kept[path] = value
    return without(kept, *unused)


def _effect(path: str, known: dict[str, Effect]) -> Effect:
    """That of a value; of one that the schema has no more, that of the fields around it."""
    while path not in known and path:
        path = path.rpartition(".")[0]
    return known.get(path, Effect())


def is_detection(values: dict[str, Any]) -> bool:
    """Whether a configuration is a detector's."""
    return values.get("task", {}).get("name") == "detection"


def without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Without these dotted names and those below them."""
    below = tuple(f"{name}." for name in names)
    return {path: value for path, value in values.items() if not f"{path}.".startswith(below)}


@cache
def _defaults(method: type[Method], backbone: type[BackboneConfig]) -> dict[str, Any]:
    return {path: _default(field) for path, field in fields(method, backbone)}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.metadata.get("always"):
        return dataclasses.MISSING
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def digest(values: dict[str, Any]) -> str:
    """Eight hexadecimal digits of these values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
