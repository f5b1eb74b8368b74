"""The learning rules, one file each: a dataclass of settings that knows what trains each module."""

from __future__ import annotations

import importlib
import pkgutil

from localsl.methods.base import Method


def names() -> list[str]:
    """Every method: the files beside this one but `base`, sorted."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__) if info.name != "base")


def find(name: str) -> type[Method]:
    """The class `Settings` of the file `name`.

    Raises:
        KeyError: if there is no such method.
    """
    if name not in names():
        raise KeyError(name)
    module = importlib.import_module(f"{__name__}.{name}")
    return module.Settings
