"""The fields of a configuration by dotted name, for the classes of the chosen rule and backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast, get_type_hints

from localsl.backbones.base import BackboneConfig
from localsl.config.command import Command
from localsl.config.schema import OwnSettings
from localsl.core.settings import Affects
from localsl.methods.base import Method


@dataclass(frozen=True)
class Effect:
    """What a field affects, and whether a table's cell leaves it open; see `core.settings.ruled`."""

    affects: Affects = Affects.ALL
    setting: bool = False

    @property
    def keeps_table(self) -> bool:
        """Whether a table may be run with another value of the field and still be the paper's table.

        So for settings that cells leave open, and for the way in which a run is executed.
        """
        return self.setting or Affects.NUMBERS not in self.affects

    def stated(self, metadata: Any) -> Effect:
        """The effect of a nested field: this one, with what the field's own metadata states."""
        own = {name: metadata[name] for name in ("affects", "setting") if metadata.get(name) is not None}
        return dataclasses.replace(self, **own)


@cache
def own_settings(method: type[Method]) -> type[OwnSettings]:
    """A subclass of `OwnSettings` with the fields of a rule."""
    kinds = get_type_hints(method)
    own = [(field.name, kinds[field.name], _copied(field)) for field in method.own_fields()]
    return dataclasses.make_dataclass(f"{method.__name__}Settings", own, bases=(OwnSettings,), kw_only=True)


def _copied(entry: dataclasses.Field) -> Any:
    """A copy of a field for use in another class, because a dataclass modifies the fields it is given."""
    default = {name: getattr(entry, name) for name in ("default", "default_factory")}
    defined = {name: value for name, value in default.items() if value is not dataclasses.MISSING}
    return field(metadata=entry.metadata, **defined)


@cache
def fields(
    method: type[Method], backbone: type[BackboneConfig]
) -> tuple[tuple[str, dataclasses.Field[Any]], ...]:
    """Every leaf of the schema, with its dotted name."""
    nested = _walk(_chosen(method, backbone), Command, "", Effect())
    return tuple((path, entry) for path, entry, _, leaf in nested if leaf)


@cache
def _effects(method: type[Method], backbone: type[BackboneConfig]) -> dict[str, Effect]:
    """The effect of every field and group of fields, by dotted name."""
    return {path: found for path, _, found, _ in _walk(_chosen(method, backbone), Command, "", Effect())}


@cache
def effect(name: str, method: type[Method] = Method, backbone: type[BackboneConfig] = BackboneConfig) -> Effect:
    """The effect of a field or group of fields, or of the nearest group around it if the schema does not have it."""
    known = _effects(method, backbone)
    while name not in known and name:
        name = name.rpartition(".")[0]
    return known.get(name, Effect())


def built(method: type[Method], backbone: type[BackboneConfig], values: dict[str, Any]) -> Command:
    """The configuration with these values by their dotted names, and defaults for the other fields."""
    return _built(_chosen(method, backbone), Command, "", values)


def _built(chosen: dict[type, type], cls: type, path: str, values: dict[str, Any]) -> Any:
    kinds, given = _hints(cls), {}
    for entry in dataclasses.fields(cls):
        kind, name = chosen.get(kinds[entry.name], kinds[entry.name]), f"{path}{entry.name}"
        if dataclasses.is_dataclass(kind):
            given[entry.name] = _built(chosen, cast("type", kind), f"{name}.", values)
        elif name in values:
            given[entry.name] = values[name]
    return cls(**given)


def top_level() -> list[str]:
    """The names of the top-level fields and groups of fields of a configuration."""
    return [entry.name for entry in dataclasses.fields(Command)]


def _chosen(method: type[Method], backbone: type[BackboneConfig]) -> dict[type, type]:
    return {OwnSettings: own_settings(method), BackboneConfig: backbone}


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _walk(
    chosen: dict[type, type], cls: type, path: str, outer: Effect
) -> Iterator[tuple[str, dataclasses.Field[Any], Effect, bool]]:
    """Every field with its dotted name, its effect, and whether it is a leaf."""
    kinds = _hints(cls)
    for entry in dataclasses.fields(cls):
        kind = chosen.get(kinds[entry.name], kinds[entry.name])
        name, found = f"{path}{entry.name}", outer.stated(entry.metadata)
        leaf = not dataclasses.is_dataclass(kind)
        yield name, entry, found, leaf
        if not leaf:
            yield from _walk(chosen, cast("type", kind), f"{name}.", found)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested dicts, with its dotted name."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
