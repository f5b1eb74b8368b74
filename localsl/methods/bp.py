"""Backpropagation through the whole network: one module, whose objective is the output's cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from localsl import backbones
from localsl.methods.base import Method
from localsl.schema import Problem

if TYPE_CHECKING:
    from localsl.config import Config


@dataclass
class Settings(Method):
    """End-to-end backpropagation, the baseline of every table."""

    single_module: ClassVar[bool] = True

    def problems(self, cfg: Config) -> Iterator[Problem]:
        """An auxiliary network would never be used."""
        if cfg.aux.head != "none":
            yield Problem("aux_net", cfg.aux.head, "bp has no auxiliary network", "leave aux_net out")

    def groups(self, cfg: Config) -> list[range]:
        """Everything is one module."""
        return [range(len(backbones.local_layers(cfg.backbone)))]
