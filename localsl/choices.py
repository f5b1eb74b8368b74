"""Rules and families as files of a package: each has a class `Settings`, and is chosen by the file's name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def names(package: str) -> list[str]:
    """The files of a package but `base`, sorted."""
    path = importlib.import_module(package).__path__
    return sorted(info.name for info in pkgutil.iter_modules(path) if info.name != "base")


def settings(package: str, name: str) -> Any:
    """The class `Settings` of a file.

    Raises:
        KeyError: if there is no such file.
    """
    if name not in names(package):
        raise KeyError(name)
    return importlib.import_module(f"{package}.{name}").Settings
