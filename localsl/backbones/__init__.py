"""Backbones, one file per family: each is an ordered list of local layers and a classifier."""

from __future__ import annotations

from localsl import choices
from localsl.backbones.base import Backbone, BackboneConfig, LocalLayer

__all__ = ["Backbone", "BackboneConfig", "LocalLayer", "families", "find"]


def families() -> list[str]:
    """Every family."""
    return choices.names(__name__)


def find(family: str) -> type[BackboneConfig]:
    """The settings of a family.

    Raises:
        KeyError: if there is no such family.
    """
    return choices.settings(__name__, family)
