"""The learning rules, one file each, in which the class is named as in the paper."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from localsl.core import registry
from localsl.methods.base import HeadMethod, Method

__all__ = ["HeadMethod", "Method", "find", "names", "register"]

# Rules of other packages announce themselves by an entry point of this group: name = "module:Class".
ENTRY_POINTS = "localsl.methods"

_registered: dict[str, type[Method]] = {}


def register(method: type[Method], name: str | None = None) -> type[Method]:
    """Make a rule of one's own known to the command line, as `method=NAME`; usable as a class decorator.

    Args:
        name: the class's name in lower case unless given.

    Raises:
        ValueError: if another rule has the name.
    """
    name = name or method.__name__.lower()
    if name in registry.names(__name__) or _registered.get(name, method) is not method:
        raise ValueError(f"{name} is the name of another rule: give register() a name")
    _registered[name] = method
    return method


@cache
def _announced() -> dict[str, type[Method]]:
    """The rules of entry points, by name; looked for once in a process, since every package is asked."""
    return {entry.name: entry.load() for entry in entry_points(group=ENTRY_POINTS)}


def registered() -> dict[str, type[Method]]:
    """The rules of `register` and of entry points, by name."""
    return _announced() | _registered


def names() -> list[str]:
    """Every method."""
    return sorted({*registry.names(__name__), *registered()})


def find(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        KeyError: if there is no such method.
    """
    others = registered()
    return others[name] if name in others else registry.find(__name__, name, Method)
