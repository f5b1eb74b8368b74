"""Rules and families as files of a package: each file has one subclass, and is chosen by the file's name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TypeVar

T = TypeVar("T")


def names(package: str) -> list[str]:
    """The files of a package that can be chosen, sorted: all but `base` and those that begin with "_"."""
    path = importlib.import_module(package).__path__
    return sorted(i.name for i in pkgutil.iter_modules(path) if i.name != "base" and not i.name.startswith("_"))


def find(package: str, name: str, base: type[T]) -> type[T]:
    """The subclass of `base` that is defined in a file.

    Raises:
        KeyError: if there is no such file.
    """
    if name not in names(package):
        raise KeyError(name)
    module = importlib.import_module(f"{package}.{name}")
    defined = (value for value in vars(module).values() if isinstance(value, type))
    return next(c for c in defined if issubclass(c, base) and c.__module__ == module.__name__)
