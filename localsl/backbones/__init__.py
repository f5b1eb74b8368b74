"""Backbones, one file per family: each is an ordered list of local layers and a classifier."""

from __future__ import annotations

import importlib
import pkgutil

from localsl.backbones.base import Backbone, BackboneConfig, LocalLayer

__all__ = ["Backbone", "BackboneConfig", "LocalLayer", "families", "find"]


def families() -> list[str]:
    """Every family: the files beside this one but `base`, sorted."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__) if info.name != "base")


def find(family: str) -> type[BackboneConfig]:
    """The class `Settings` of the file of a family.

    Raises:
        KeyError: if there is no such family.
    """
    if family not in families():
        raise KeyError(family)
    return importlib.import_module(f"{__name__}.{family}").Settings
