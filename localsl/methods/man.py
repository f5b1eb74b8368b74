"""MAN: a module's losses see its features through a momentum copy of the next module's first layer.

Su et al.: "Momentum Auxiliary Network for Supervised Local Learning", ECCV 2024. The copy follows the next
layer by exponential moving average, which lets information pass back across the cut, and a learnable bias
makes up for what the average lacks. Any of DGL's, InfoPro's or PredSim's heads follow, at that layer's width.

The paper's equations take the gradient step before the average; here, as released, the average is taken first,
of the weights that the losses were computed with, and the optimizer steps after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from localsl.aux_nets import lambdas
from localsl.aux_nets.momentum import MomentumLayer
from localsl.aux_nets.terms import Terms
from localsl.methods.base import Method, output, with_lambdas
from localsl.objectives import Objective, Part
from localsl.schema import Problem, one_of, ruled

if TYPE_CHECKING:
    from localsl.plan import Plan
    from localsl.settings import Config


@dataclass(kw_only=True)
class Settings(Method):
    """Momentum auxiliary networks on a base (`aux_net`), as `ema` describes them.

    Attributes:
        lambdas: InfoPro's weights where null: `published` for InfoPro itself, or the `released` MAN's.
    """

    momentum: ClassVar[bool] = True

    lambdas: str = ruled(one_of("published", "released"))

    def resolved(self, cfg: Config) -> Config:
        """With InfoPro's loss weights filled in."""
        cfg = replace(cfg, ema=cfg.ema.resolved())
        if self.lambdas == "published":
            return super().resolved(cfg)
        return with_lambdas(cfg, lambdas.released(cfg), "next_stage")

    def problems(self, cfg: Config) -> Iterator[Problem]:
        """Something must map a module's features to the next layer's shape."""
        yield from super().problems(cfg)
        if cfg.aux.head == "auglocal":
            what = "the base is DGL's, InfoPro's or PredSim's"
            yield Problem("aux_net", "auglocal", what, "type aux_net=dgl")
        for key, value in (("layers", cfg.ema.layers), ("moves", cfg.ema.moves)):
            if value != "all":
                what = "is a choice of MLAAN's leap bridges; MAN has one layer a module, which moves"
                yield Problem(f"ema.{key}", value, what, f"type ema.{key}=all")
        for key, value in (("gradient", cfg.ema.gradient), ("start", cfg.ema.start)):
            if value is None:
                what = "is left to the released MLAAN's code there"
                yield Problem(f"ema.{key}", value, what, "type ema=man or ema=man_released")
        if cfg.ema.source == "none" and cfg.ema.bias != "block":
            what = f"with ema.bias={cfg.ema.bias} nothing is left of the momentum network"
            yield Problem("ema.source", "none", what, f"type method={cfg.aux.head}, or ema.bias=block")

    def objectives(self, plan: Plan) -> list[Objective]:
        """The base's terms behind a copy of the next module's first layer, for every module but the last."""
        terms, ema = Terms(plan), plan.cfg.ema
        objectives = []
        for module in range(plan.modules - 1):
            after = plan.end(module) + 1
            site = plan.site(module, after)
            bridge = MomentumLayer(plan.backbone.layers[after], site.channels, ema, ema.m)
            objectives.append(Objective([Part(terms.at(site, plan.layers[after].stage), bridge)]))
        return [*objectives, output(plan)]
