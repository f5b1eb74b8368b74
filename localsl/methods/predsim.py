"""PredSim: each module predicts the class and matches the similarities of its features to those of the targets.

Nøkland and Eidnes: "Training Neural Networks with Local Error Signals", ICML 2019. The defaults are those of
AugLocal's re-implementation for its tables: two heads on each module's output, with weights 0.99 (similarity) and
0.01 (cross-entropy). `method=predsim_original` has the settings of PredSim's own code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from localsl.core.objectives import Objective
from localsl.core.partition import Partition
from localsl.core.plan import Plan
from localsl.core.settings import Problem, number, ruled
from localsl.methods.base import HeadMethod


@dataclass(kw_only=True)
class PredSim(HeadMethod):
    """A classifier and a similarity-matching loss on each module's output.

    Attributes:
        output_weight: weight of the last module's cross-entropy; 0.01 in PredSim's own code.
        dropout: probability that a channel is dropped between a module and the next, as in PredSim's own code; a
            module's own losses see all channels.
    """

    head: str = "predsim"
    lambda_ce: list[float] | None = field(default_factory=lambda: [0.01, 0.01])
    lambda_similarity: list[float] = field(default_factory=lambda: [0.99, 0.99])
    output_weight: float = ruled(number(above=0), default=1.0)
    dropout: float = ruled(number(0, below=1), default=0.0)

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """The problems of `HeadMethod`, and a missing similarity loss."""
        yield from super().problems(partition)
        if not any(self.lambda_similarity):
            what = "PredSim needs a similarity loss"
            yield Problem("aux.lambda_similarity", self.lambda_similarity, what, "type aux_net=predsim")

    def objectives(self, plan: Plan) -> list[Objective]:
        """The terms of all heads, with dropout between modules and a weight for the last module."""
        *local, last = super().objectives(plan)
        last = Objective([replace(part, weight=self.output_weight) for part in last.parts])
        return [*(replace(objective, dropout=self.dropout) for objective in local), last]
