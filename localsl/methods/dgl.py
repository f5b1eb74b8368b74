"""DGL, decoupled greedy learning: each module is trained by the cross-entropy of its own classifier.

Belilovsky, Eickenberg, Oyallon: "Decoupled Greedy Learning of CNNs", ICML 2020. The graph is cut after
every module, and nothing but the auxiliary head differs from backpropagation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from localsl.core.partition import Partition
from localsl.core.settings import Problem
from localsl.methods.base import HeadMethod


@dataclass(kw_only=True)
class DGL(HeadMethod):
    """A classifier on each module's output, and nothing else."""

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """Other terms would make it another rule."""
        yield from super().problems(partition)
        if any(self.lambda_reconstruction or []) or any(self.lambda_similarity):
            what = "DGL's modules have a classifier only"
            yield Problem("aux_net", self.head, what, "type method=infopro or method=predsim")
