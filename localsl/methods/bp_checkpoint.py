"""Backpropagation with gradient checkpointing: activations recomputed in backward instead of kept.

The memory baseline of AugLocal's Table 4 (Chen et al. 2016). The same numbers as `bp`: BatchNorm's running
statistics move once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localsl.methods import bp
from localsl.schema import Problem, number, ruled

if TYPE_CHECKING:
    from localsl.settings import Config


@dataclass(kw_only=True)
class Settings(bp.Settings):
    """`bp` in segments: null takes the square root of the number of layers, which the papers do not state."""

    segments: int | None = ruled(number(1))

    def problems(self, cfg: Config) -> Iterator[Problem]:
        """Ways to execute a step that decide themselves what is recomputed."""
        yield from super().problems(cfg)
        for key, other in (("memory", "lean"), ("compile", True), ("cuda_graph", True)):
            if getattr(cfg, key) == other:
                what = f"{self.name} is a way of its own to recompute activations"
                yield Problem(key, other, what, "type method=bp")

    def checkpoint_segments(self, cfg: Config) -> int:
        """In how many pieces the forward is recomputed."""
        return self.segments or round(math.sqrt(len(cfg.backbone.local_layers())))
