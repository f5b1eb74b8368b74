"""DGL, decoupled greedy learning: each module is trained by the cross-entropy of its own classifier.

Belilovsky, Eickenberg, Oyallon: "Decoupled Greedy Learning of CNNs", ICML 2020. The graph is cut after every module,
and the auxiliary heads are all that is added to backpropagation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from localsl.core.partition import Partition
from localsl.core.settings import Problem
from localsl.methods.base import HeadMethod


@dataclass(kw_only=True)
class DGL(HeadMethod):
    """An auxiliary classifier on each module's output, without further losses."""

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """The problems of `HeadMethod`, and losses that DGL does not have."""
        yield from super().problems(partition)
        for name, rule in (("reconstruction", "infopro"), ("similarity", "predsim")):
            weights = getattr(self, f"lambda_{name}")
            if any(weights or []):
                what = "DGL's modules have a classifier as their only loss"
                instead = f"type method={rule}, or an aux_net without this loss"
                yield Problem(f"aux.lambda_{name}", weights, what, instead)
