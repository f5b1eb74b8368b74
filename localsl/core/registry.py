"""Lookup of rules and backbone families: each file of a package defines one, chosen by the file's name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TypeVar

T = TypeVar("T")


def names(package: str) -> list[str]:
    """The sorted names of the files that can be chosen: all but `base`, those that begin with "_", and folders."""
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return sorted(i.name for i in found if i.name != "base" and not i.name.startswith("_") and not i.ispkg)


def find(package: str, name: str, base: type[T]) -> type[T]:
    """The subclass of `base` that the file `name` of a package defines.

    Raises:
        KeyError: if the package has no such file.
    """
    if name not in names(package):
        raise KeyError(name)
    module = importlib.import_module(f"{package}.{name}")
    defined = (value for value in vars(module).values() if isinstance(value, type))
    return next(c for c in defined if issubclass(c, base) and c.__module__ == module.__name__)
