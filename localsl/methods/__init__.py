"""The learning rules, one file each: a dataclass of settings that knows what trains each module."""

from __future__ import annotations

from localsl import choices
from localsl.methods.base import Method


def names() -> list[str]:
    """Every method."""
    return choices.names(__name__)


def find(name: str) -> type[Method]:
    """The settings of a method.

    Raises:
        KeyError: if there is no such method.
    """
    return choices.settings(__name__, name)
