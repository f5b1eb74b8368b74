"""The identity of a run: a hash of the values of its configuration that affect its numbers.

Configurations are dicts here, as returned by `dataclasses.asdict` and stored in a run's config.yaml.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import cache
from typing import Any

from localsl import backbones, methods
from localsl.backbones.base import BackboneConfig
from localsl.config.fields import effect, fields, leaves
from localsl.config.schema import Config
from localsl.core.settings import Affects
from localsl.methods.base import Method


def run_id(cfg: Config) -> str:
    """The id of a run: eight hexadecimal digits, equal exactly for configurations of the same run."""
    return digest(identity(dataclasses.asdict(cfg)))


def identity(values: dict[str, Any]) -> dict[str, Any]:
    """The values that affect a run's numbers, by dotted name."""
    return affecting(values, Affects.NUMBERS)


def affecting(values: dict[str, Any], what: Affects, *, setting: bool | None = None) -> dict[str, Any]:
    """The values that affect any of `what`, by dotted name.

    Fields that equal their default in the schema are left out, so that a new field leaves the ids of recorded
    runs unchanged. So are fields that are not used: K for a rule with one module, `detector` outside detection, and
    `processes` with parallel=modules, which computes what a single process does.

    Args:
        setting: true for only the fields that a table's cell leaves open, false for only the others; None for both.
    """
    method = methods.find(values["method"]["rule"])
    classes = method, backbones.find(values["backbone"]["family"])
    defaults = _defaults(*classes)
    unused = ["K", "partition"] if method.single_module else []
    unused += [] if is_detection(values) else ["detector"]
    unused += ["processes"] if values.get("parallel", {}).get("name") == "modules" else []
    kept = {
        path: value
        for path, value in leaves(values)
        if _counts(path, what, setting, *classes) and (path not in defaults or defaults[path] != value)
    }
    return without(kept, *unused)


@cache
def _counts(
    path: str, what: Affects, setting: bool | None, method: type[Method], backbone: type[BackboneConfig]
) -> bool:
    found = effect(path, method, backbone)
    return bool(found.affects & what) and setting in (None, found.setting)


def is_detection(values: dict[str, Any]) -> bool:
    """Whether a configuration is one of detection."""
    return values.get("task", {}).get("name") == "detection"


def without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """The values without those at or below the given dotted names."""
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
    """Hash values to eight hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
