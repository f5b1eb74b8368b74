"""MAN: a module's losses see its features through a momentum copy of the next module's first layer.

Su et al.: "Momentum Auxiliary Network for Supervised Local Learning", ECCV 2024. The copy follows that layer by
exponential moving average, which passes information back across the cut, and a learnable bias compensates for the
difference between the copy and a trained layer. The heads of DGL, InfoPro or PredSim come after it, at its width.

In the paper's equations the gradient step comes before the average. Here, as in the released code, the average of the
weights with which the losses were computed comes first, and the optimizer's step after it.
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
from localsl.methods.base import FollowingMethod, output_objective, published_weights, released_weights
from localsl.methods.dgl import DGL


@dataclass(kw_only=True)
class MAN(FollowingMethod):
    """Momentum auxiliary networks on a base.

    Attributes:
        lambdas: the loss weights of an InfoPro base that leaves them None: InfoPro's `published` ones, or those of
            the `released` MAN.
    """

    base: AuxSettings = field(default_factory=DGL)
    gradient: bool | None = True
    bias: str = "block"
    bias_start: str = "own"
    lambdas: str = ruled(one_of("published", "released"), default="published", always=True)

    def resolved(self, partition: Partition) -> Self:
        """A copy with InfoPro's loss weights filled in, and fields without an effect set to their defaults."""
        base = self.base.scaled(partition.architecture.scale)
        published = self.lambdas == "published"
        base = published_weights(base, partition) if published else released_weights(base, "next_stage")
        return replace(self.canonical(), base=base)  # pyright: ignore[reportReturnType]

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """Problems with the base and with the layer that maps features to the next layer's shape."""
        yield from super().problems(partition)
        if self.base.head == "auglocal":
            what = "the base must be DGL, InfoPro or PredSim"
            yield Problem("aux.head", "auglocal", what, "type aux_net=dgl")
        for key, value in (("layers", self.layers), ("moves", self.moves)):
            if value != "all":
                what = "applies only to MLAAN's leap bridges; every module of MAN has one momentum layer"
                yield Problem(f"ema.{key}", value, what, f"type ema.{key}=all")
        for key, value in (("gradient", self.gradient), ("start", self.start)):
            if value is None:
                what = "is filled in only for MLAAN, from its released code"
                yield Problem(f"ema.{key}", value, what, "type ema=man or ema=man_released")
        if self.source == "none" and self.bias != "block":
            what = f"with ema.bias={self.bias} the momentum layer would be empty"
            yield Problem("ema.source", "none", what, "type ema.bias=block, or use the base as the method")

    def objectives(self, plan: Plan) -> list[Objective]:
        """The base's terms after a copy of the next module's first layer; cross-entropy for the last module."""
        terms = Terms(plan, self.base)
        objectives = []
        for module in range(plan.modules - 1):
            after = plan.end(module) + 1
            site = plan.site(module, after)
            bridge = MomentumLayer(plan.backbone.layers[after], site.channels, self, self.m, site.layout)
            objectives.append(Objective([Part(terms.at(site, plan.layers[after].stage), bridge)]))
        return [*objectives, output_objective(plan)]
