"""Backpropagation with gradient checkpointing: activations recomputed in backward instead of kept.

The memory baseline of AugLocal's Table 4 (Chen et al. 2016). The same numbers as `bp`: BatchNorm's running
statistics move once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from localsl.core.settings import number, ruled
from localsl.methods.bp import BP


@dataclass(kw_only=True)
class CheckpointedBP(BP):
    """Backpropagation in segments.

    Attributes:
        segments: None takes the square root of the number of layers, which the papers do not state.
    """

    segments: int | None = ruled(number(1), default=None, always=True)

    def checkpoint_segments(self, layers: int) -> int:
        """In how many pieces the forward is recomputed."""
        return self.segments or round(math.sqrt(layers))
