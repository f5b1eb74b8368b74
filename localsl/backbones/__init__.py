"""Backbones, one file per family: each is an ordered list of local layers and a classifier."""

from __future__ import annotations

from localsl.backbones.base import BackboneConfig
from localsl.core import registry

__all__ = ["BackboneConfig", "families", "find"]


def families() -> list[str]:
    """The sorted names of all families."""
    return registry.names(__name__)


def find(family: str) -> type[BackboneConfig]:
    """The settings class of a family.

    Raises:
        KeyError: if there is no such family.
    """
    return registry.find(__name__, family, BackboneConfig)
