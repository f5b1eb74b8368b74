"""The learning rules, one per file, with classes named as in the papers."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from localsl.core import registry
from localsl.methods.base import HeadMethod, Method

__all__ = ["HeadMethod", "Method", "find", "names", "register"]

# Other packages add rules by entry points of this group: name = "module:Class".
ENTRY_POINTS = "localsl.methods"

_registered: dict[str, type[Method]] = {}


def register(method: type[Method], name: str | None = None) -> type[Method]:
    """Register a rule of your own, so that the command line takes `method=NAME`; also a class decorator.

    Args:
        method: the class of the rule.
        name: by default the class's name in lower case.

    Raises:
        ValueError: if another rule has the name.
    """
    name = name or method.__name__.lower()
    if name in registry.names(__name__) or _registered.get(name, method) is not method:
        raise ValueError(f"{name} is the name of another rule: pass a different name to register()")
    _registered[name] = method
    return method


@cache
def _from_entry_points() -> dict[str, type[Method]]:
    """The rules of entry points, by name; cached, because the lookup reads the metadata of every package."""
    return {entry.name: entry.load() for entry in entry_points(group=ENTRY_POINTS)}


def registered() -> dict[str, type[Method]]:
    """The rules added by `register` and by entry points, by name."""
    return _from_entry_points() | _registered


def names() -> list[str]:
    """The sorted names of all rules."""
    return sorted({*registry.names(__name__), *registered()})


def find(name: str) -> type[Method]:
    """The class of a rule.

    Raises:
        KeyError: if there is no rule of this name.
    """
    added = registered()
    return added[name] if name in added else registry.find(__name__, name, Method)
