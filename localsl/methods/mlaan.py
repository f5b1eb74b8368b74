"""MLAAN: cascades of several modules (MLM) beside the modules' own losses, and leap bridges (LAM).

Zhang et al.: "MLAAN: Scaling Supervised Local Learning with Multilaminar Leap Augmented Auxiliary Network",
AAAI 2025. A cascade is a module's objective with the graph cut `cascade` modules earlier, so that
neighbouring modules are trained together; a leap bridge is a chain of copies of early, middle and late layers
of later modules, which follow them by moving average. `leap=false` is MLM alone, `cascade=1` LAM alone.

Values left null in method=mlaan_released are the released code's for the base and the two switches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from localsl.aux_nets import lambdas, leap
from localsl.aux_nets.terms import Terms
from localsl.methods.base import Method, with_lambdas
from localsl.objectives import Contrastive, CrossEntropy, Objective, Part
from localsl.schema import Problem, ends, number, one_of, ruled

if TYPE_CHECKING:
    from localsl.plan import Plan
    from localsl.settings import Config


@dataclass(kw_only=True)
class Settings(Method):
    """Cascades and leap bridges on a base (`aux_net`; `linear` is the papers' row without a base).

    Attributes:
        cascade: k, how many consecutive modules a cascade has; 1 for none.
        leap: whether there are leap bridges.
        weights: of the independent and of the cascaded part.
        leap_on: which part has leap bridges (paper: independent; released: cascaded); `both` has one in each,
            with layers of its own.
        early_independent: whether the first k - 1 modules, which end no cascade, have a loss of their own
            (released: no).
        output: the last module's loss: its cross-entropy through the `cascade` alone, weight 1, or `both`, on
            its own and through the cascade, with `weights` (the released MLM).
        independent_head: the `base`'s, or always `contrastive` InfoPro 1c2f, as released on InfoPro.
        batchnorm: whether running statistics move `once` a step, or with `every` forward (released).
        lambdas: InfoPro's weights where null: `published` for InfoPro itself, or the `released` MLAAN's.
    """

    momentum: ClassVar[bool] = True

    cascade: int | None = ruled(number(1))
    leap: bool
    weights: list[float] | None = ruled(ends())
    leap_on: str = ruled(one_of("independent", "cascaded", "both"))
    early_independent: bool
    output: str | None = ruled(one_of("cascade", "both"))
    independent_head: str | None = ruled(one_of("base", "contrastive"))
    batchnorm: str = ruled(one_of("once", "every"))
    lambdas: str = ruled(one_of("published", "released"))

    @property
    def batchnorm_every_forward(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether each of several forwards of a layer in one step moves BatchNorm's running statistics."""
        return self.batchnorm == "every"

    def resolved(self, cfg: Config) -> Config:
        """With the released code's choice for the base and the scale filled in wherever a value is null."""
        decoder = any(cfg.aux.lambda_reconstruction or [1.0])
        linear, imagenet = cfg.aux.head == "0c1f", cfg.aux.scale == "imagenet"
        cascade = self.cascade or (2 if linear and self.leap and not imagenet else 3)
        alone = cascade == 1
        mlm = not self.leap
        method = replace(
            self,
            cascade=cascade,
            weights=self.weights or ([0.01, 0.99] if mlm and not decoder else [0.001, 0.999]),
            output=self.output or ("both" if mlm or imagenet else "cascade"),
            independent_head=self.independent_head
            or ("contrastive" if decoder and self.leap and not alone else "base"),
        )
        ema = cfg.ema
        if ema.gradient is None:
            ema = replace(ema, gradient=decoder and not alone)
        if ema.moves is None:
            ema = replace(ema, moves="last_twice" if alone or imagenet else "last")
        if ema.start is None:
            ema = replace(ema, start="fresh" if imagenet else "copy")
        cfg = replace(cfg, method=method, ema=ema.resolved())
        if self.lambdas == "published":
            return with_lambdas(cfg, lambdas.published(cfg), "module")
        return with_lambdas(cfg, lambdas.released(cfg), "stage" if self.leap else "module")

    def problems(self, cfg: Config) -> Iterator[Problem]:
        """Cascades longer than the network, bridges of nothing."""
        yield from super().problems(cfg)
        modules = len(self.groups(cfg))
        assert self.cascade is not None
        if self.cascade > modules:
            what = f"a cascade cannot be longer than the {modules} modules of K={cfg.K}"
            yield Problem("method.cascade", self.cascade, what, f"type method.cascade={min(3, modules)}")
        if self.cascade == 1 and not self.leap:
            what = "neither cascades nor leap bridges are left"
            yield Problem("method.leap", False, what, "type method=dgl, or method.cascade=3")
        if cfg.aux.head == "auglocal":
            yield Problem("aux_net", "auglocal", "the base is none, DGL or InfoPro", "type aux_net=linear")
        if self.leap and cfg.ema.source == "none" and cfg.ema.bias != "block":
            what = f"with ema.bias={cfg.ema.bias} a leap bridge has no layers"
            yield Problem("ema.source", "none", what, "type ema.bias=block for layers without averages")

    def objectives(self, plan: Plan) -> list[Objective]:
        """Independent and cascaded parts of every module."""
        terms = Terms(plan)
        local = [self._objective(plan, terms, module) for module in range(plan.modules - 1)]
        return [*local, self._output(plan)]

    def _objective(self, plan: Plan, terms: Terms, module: int) -> Objective:
        alone = self._cascade == 1
        ends_cascade = not alone and module + 1 >= self._cascade
        parts = []
        if alone or self.early_independent or ends_cascade:
            leaps = self.leap and (alone or self.leap_on != "cascaded")
            weight = 1.0 if alone else self._weights[0]
            parts.append(self._part(plan, terms, module, leaps, name="independent", weight=weight))
        if ends_cascade:
            leaps = self.leap and self.leap_on != "independent"
            part = self._part(plan, terms, module, leaps, name="cascaded", weight=self._weights[1])
            parts.append(replace(part, span=self._cascade))
        return Objective(parts)

    def _part(self, plan: Plan, terms: Terms, module: int, leaps: bool, *, name: str, weight: float) -> Part:
        own = plan.site(module)
        # A bridge ends with a copy of the network's last layer, whatever module it starts from.
        site = plan.site(module, len(plan.layers) - 1) if leaps else own
        made = terms.at(site, plan.layers[own.layer].stage)
        if name == "independent" and self.independent_head == "contrastive":
            head = terms.infopro("1c2f", site, plan.cfg.aux.feature_dim)
            made = [*made[:-1], Contrastive(head, made[-1].weight)]
        bridge = leap.bridge(plan, module, self._momentum(plan, module)) if leaps else None
        return Part(made, bridge, weight=weight, name=name)

    def _output(self, plan: Plan) -> Objective:
        ce = CrossEntropy(plan.backbone.classifier)
        if self.output == "cascade" or self._cascade == 1:
            return Objective([Part([ce], span=self._cascade)])
        independent = Part([ce], weight=self._weights[0], name="independent")
        return Objective([independent, Part([ce], None, self._cascade, self._weights[1], "cascaded")])

    def _momentum(self, plan: Plan, module: int) -> float:
        ema, is_last = plan.cfg.ema, module == plan.modules - 2
        if ema.moves == "last":
            return ema.m if is_last else 1.0
        return ema.m**2 if ema.moves == "last_twice" and is_last else ema.m

    @property
    def _cascade(self) -> int:
        assert self.cascade is not None
        return self.cascade

    @property
    def _weights(self) -> list[float]:
        assert self.weights is not None
        return self.weights
