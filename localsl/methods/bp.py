"""Backpropagation: the whole network is one module, whose objective is the cross-entropy of its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from localsl.core.objectives import Objective
from localsl.core.partition import Partition
from localsl.core.plan import Plan
from localsl.methods.base import Method, output_objective


@dataclass(kw_only=True)
class BP(Method):
    """End-to-end backpropagation, the baseline of every table."""

    single_module: ClassVar[bool] = True

    def groups(self, partition: Partition) -> list[range]:
        """All layers as a single module."""
        return [range(len(partition.layers))]

    def objectives(self, plan: Plan) -> list[Objective]:
        """The cross-entropy of the output."""
        return [output_objective(plan)]
