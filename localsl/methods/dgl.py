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
        if any(self.lambda_reconstruction or []) or any(self.lambda_similarity):
            what = "DGL's modules have a classifier as their only loss"
            yield Problem("aux_net", self.head, what, "type method=infopro or method=predsim")
