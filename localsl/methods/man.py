"""MAN: a module's losses see its features through a momentum copy of the next module's first layer.

Su et al.: "Momentum Auxiliary Network for Supervised Local Learning", ECCV 2024. The copy follows the next
layer by exponential moving average, which lets information pass back across the cut, and a learnable bias
makes up for what the average lacks. Any of DGL's, InfoPro's or PredSim's heads follow, at that layer's width.

The paper's equations take the gradient step before the average; here, as released, the average is taken first,
of the weights that the losses were computed with, and the optimizer steps after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

from localsl.aux_nets.momentum import MomentumLayer
from localsl.aux_nets.settings import AuxSettings
from localsl.aux_nets.terms import Terms
from localsl.core.objectives import Objective, Part
from localsl.core.partition import Partition
from localsl.core.plan import Plan
from localsl.core.settings import Problem, one_of, ruled
from localsl.methods.base import FollowingMethod, output, published_weights, released_weights
from localsl.methods.dgl import DGL


@dataclass(kw_only=True)
class MAN(FollowingMethod):
    """Momentum auxiliary networks on a base.

    Attributes:
        lambdas: InfoPro's weights where None: `published` for InfoPro itself, or the `released` MAN's.
    """

    base: AuxSettings = field(default_factory=DGL)
    gradient: bool | None = True
    bias: str = "block"
    bias_start: str = "own"
    lambdas: str = ruled(one_of("published", "released"), default="published", always=True)

    def resolved(self, partition: Partition) -> Self:
        """With InfoPro's loss weights filled in, and values without an effect at their defaults."""
        base = self.base.scaled(partition.architecture.scale)
        published = self.lambdas == "published"
        base = published_weights(base, partition) if published else released_weights(base, "next_stage")
        return replace(self.canonical(), base=base)  # pyright: ignore[reportReturnType]

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """Something must map a module's features to the next layer's shape."""
        yield from super().problems(partition)
        if self.base.head == "auglocal":
            what = "the base is DGL's, InfoPro's or PredSim's"
            yield Problem("aux_net", "auglocal", what, "type aux_net=dgl")
        for key, value in (("layers", self.layers), ("moves", self.moves)):
            if value != "all":
                what = "is a choice of MLAAN's leap bridges; MAN has one layer a module, which moves"
                yield Problem(f"ema.{key}", value, what, f"type ema.{key}=all")
        for key, value in (("gradient", self.gradient), ("start", self.start)):
            if value is None:
                what = "is left to the released MLAAN's code there"
                yield Problem(f"ema.{key}", value, what, "type ema=man or ema=man_released")
        if self.source == "none" and self.bias != "block":
            what = f"with ema.bias={self.bias} nothing is left of the momentum network"
            yield Problem("ema.source", "none", what, "type ema.bias=block, or the base as the method")

    def objectives(self, plan: Plan) -> list[Objective]:
        """The base's terms behind a copy of the next module's first layer, for every module but the last."""
        terms = Terms(plan, self.base)
        objectives = []
        for module in range(plan.modules - 1):
            after = plan.end(module) + 1
            site = plan.site(module, after)
            bridge = MomentumLayer(plan.backbone.layers[after], site.channels, self, self.m)
            objectives.append(Objective([Part(terms.at(site, plan.layers[after].stage), bridge)]))
        return [*objectives, output(plan)]
