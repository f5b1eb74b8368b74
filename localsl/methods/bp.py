"""Backpropagation through the whole network: one module, whose objective is the output's cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from localsl.methods.base import Method

if TYPE_CHECKING:
    from localsl.settings import Config


@dataclass(kw_only=True)
class Settings(Method):
    """End-to-end backpropagation, the baseline of every table."""

    single_module: ClassVar[bool] = True
    auxiliary: ClassVar[bool] = False

    def groups(self, cfg: Config) -> list[range]:
        """Everything is one module."""
        return [range(len(cfg.backbone.local_layers()))]
