"""Backpropagation through the whole network: one module, whose objective is the output's cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from localsl.core.objectives import Objective
from localsl.core.partition import Partition
from localsl.core.plan import Plan
from localsl.methods.base import Method, output


@dataclass(kw_only=True)
class BP(Method):
    """End-to-end backpropagation, the baseline of every table."""

    single_module: ClassVar[bool] = True

    def groups(self, partition: Partition) -> list[range]:
        """Everything is one module."""
        return [range(len(partition.layers))]

    def objectives(self, plan: Plan) -> list[Objective]:
        """The output's cross-entropy."""
        return [output(plan)]
