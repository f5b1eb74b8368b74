"""PredSim: each module predicts the class, and matches the similarities of its features to the targets'.

Nøkland and Eidnes: "Training Neural Networks with Local Error Signals", ICML 2019, as AugLocal re-implements
it for its tables: two heads on a module's output, weights 0.99 (similarity) and 0.01 (cross-entropy).
`method=predsim_original` has the settings of PredSim's own code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

from localsl.core.objectives import Objective
from localsl.core.partition import Partition
from localsl.core.plan import Plan
from localsl.core.settings import Problem, number, ruled
from localsl.methods.base import HeadMethod


@dataclass(kw_only=True)
class PredSim(HeadMethod):
    """A classifier and a similarity-matching loss on each module's output.

    Attributes:
        output_weight: of the last module's cross-entropy; 0.01 in PredSim's own code.
        dropout: probability that a channel is dropped from what a module hands to the next; its own losses
            see all channels (PredSim's own code).
    """

    aux_net: ClassVar[str] = "predsim"

    head: str = "predsim"
    lambda_ce: list[float] | None = field(default_factory=lambda: [0.01, 0.01])
    lambda_similarity: list[float] = field(default_factory=lambda: [0.99, 0.99])
    output_weight: float = ruled(number(above=0), default=1.0)
    dropout: float = ruled(number(0, below=1), default=0.0)

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """Without the similarity it would be another rule."""
        yield from super().problems(partition)
        if not any(self.lambda_similarity):
            what = "PredSim's modules have a similarity loss"
            yield Problem("aux_net", self.head, what, "type aux_net=predsim")

    def objectives(self, plan: Plan) -> list[Objective]:
        """The base's, with dropout between them."""
        *local, last = super().objectives(plan)
        last = Objective([replace(part, weight=self.output_weight) for part in last.parts])
        return [*(replace(objective, dropout=self.dropout) for objective in local), last]
