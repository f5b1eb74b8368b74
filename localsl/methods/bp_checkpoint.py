"""Backpropagation with gradient checkpointing (Chen et al. 2016), the memory baseline of AugLocal's Table 4.

Activations are recomputed in the backward pass instead of stored. The results equal those of `bp`, because the
recomputation does not update BatchNorm's running statistics again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from localsl.core.settings import number, ruled
from localsl.methods.bp import BP


@dataclass(kw_only=True)
class CheckpointedBP(BP):
    """Backpropagation with checkpointed segments of layers.

    Attributes:
        segments: number of segments; None for the rounded square root of the number of layers, since the papers
            state no number.
    """

    segments: int | None = ruled(number(1), default=None, always=True)

    def checkpoint_segments(self, layers: int) -> int:
        """The number of segments for a network of `layers` layers."""
        return self.segments or round(math.sqrt(layers))
