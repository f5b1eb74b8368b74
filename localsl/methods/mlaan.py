"""MLAAN: cascades of several modules (MLM) beside the modules' own losses, and leap bridges (LAM).

Zhang et al.: "MLAAN: Scaling Supervised Local Learning with Multilaminar Leap Augmented Auxiliary Network",
AAAI 2025. A cascade is a module's objective with the graph cut `cascade` modules earlier, so that
neighbouring modules are trained together; a leap bridge is a chain of copies of early, middle and late layers
of later modules, which follow them by moving average. `leap=false` is MLM alone, `cascade=1` LAM alone.

Values left null in method=mlaan_released are the released code's for the base and the two switches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from localsl.aux_nets import leap
from localsl.aux_nets.settings import AuxSettings
from localsl.aux_nets.terms import Terms
from localsl.core.objectives import Contrastive, CrossEntropy, Objective, Part
from localsl.core.partition import Partition
from localsl.core.plan import Plan
from localsl.core.settings import Problem, ends, number, one_of, ruled
from localsl.methods.base import FollowingMethod, published_weights, released_weights
from localsl.methods.dgl import DGL


@dataclass(kw_only=True)
class MLAAN(FollowingMethod):
    """Cascades and leap bridges on a base; the papers' row without a base has linear classifiers.

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
        lambdas: InfoPro's weights where None: `published` for InfoPro itself, or the `released` MLAAN's.
    """

    aux_net: ClassVar[str] = "linear"

    base: AuxSettings = field(default_factory=lambda: DGL(head="0c1f"))
    gradient: bool | None = True
    cascade: int | None = ruled(number(1), default=3, always=True)
    leap: bool = ruled(default=True, always=True)
    weights: list[float] | None = ruled(ends(), default_factory=lambda: [1.0, 1.0], always=True)
    leap_on: str = ruled(one_of("independent", "cascaded", "both"), default="independent", always=True)
    early_independent: bool = ruled(default=True, always=True)
    output: str | None = ruled(one_of("cascade", "both"), default="cascade", always=True)
    independent_head: str | None = ruled(one_of("base", "contrastive"), default="base", always=True)
    batchnorm: str = ruled(one_of("once", "every"), default="once", always=True)
    lambdas: str = ruled(one_of("published", "released"), default="published", always=True)

    @property
    def batchnorm_every_forward(self) -> bool:
        """Whether each of several forwards of a layer in one step moves BatchNorm's running statistics."""
        return self.batchnorm == "every"

    def resolved(self, partition: Partition) -> Self:
        """With the released code's choice for the base and the scale filled in wherever a value is None."""
        base = self.base.scaled(partition.architecture.scale)
        filled = replace(self, **self._released(base))
        if self.lambdas == "published":
            base = published_weights(base, partition)
        else:
            base = released_weights(base, "stage" if self.leap else "module")
        return replace(filled.canonical(), base=base)  # pyright: ignore[reportReturnType]

    def _released(self, base: AuxSettings) -> dict[str, Any]:
        """What MLAAN's code does for this base, of the values that are None."""
        decodes, linear, imagenet = base.decodes, base.head == "0c1f", base.scale == "imagenet"
        cascade = self.cascade or (2 if linear and self.leap and not imagenet else 3)
        alone, mlm = cascade == 1, not self.leap
        choices: dict[str, Any] = {
            "cascade": cascade,
            "weights": [0.01, 0.99] if mlm and not decodes else [0.001, 0.999],
            "output": "both" if mlm or imagenet else "cascade",
            "independent_head": "contrastive" if decodes and self.leap and not alone else "base",
            "gradient": decodes and not alone,
            "moves": "last_twice" if alone or imagenet else "last",
            "start": "fresh" if imagenet else "copy",
        }
        return {name: value for name, value in choices.items() if getattr(self, name) is None}

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """Cascades longer than the network, bridges of nothing."""
        yield from super().problems(partition)
        modules = len(self.groups(partition))
        assert self.cascade is not None
        if self.cascade > modules:
            what = f"a cascade cannot be longer than the {modules} modules of K={partition.K}"
            yield Problem("method.cascade", self.cascade, what, f"type method.cascade={min(3, modules)}")
        if self.cascade == 1 and not self.leap:
            what = "neither cascades nor leap bridges are left"
            yield Problem("method.leap", False, what, "type method=dgl, or method.cascade=3")
        if self.base.head == "auglocal":
            yield Problem("aux_net", "auglocal", "the base is none, DGL or InfoPro", "type aux_net=linear")
        if self.leap and self.source == "none" and self.bias != "block":
            what = f"with ema.bias={self.bias} a leap bridge has no layers"
            yield Problem("ema.source", "none", what, "type ema.bias=block for layers without averages")

    def objectives(self, plan: Plan) -> list[Objective]:
        """Independent and cascaded parts of every module."""
        terms = Terms(plan, self.base)
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
            made = [*made[:-1], Contrastive(terms.contrastive_head(site), made[-1].weight)]
        bridge = leap.bridge(plan, module, self, self._momentum(plan, module)) if leaps else None
        return Part(made, bridge, weight=weight, name=name)

    def _output(self, plan: Plan) -> Objective:
        ce = CrossEntropy(plan.backbone.classifier)
        if self.output == "cascade" or self._cascade == 1:
            return Objective([Part([ce], span=self._cascade)])
        independent = Part([ce], weight=self._weights[0], name="independent")
        return Objective([independent, Part([ce], None, self._cascade, self._weights[1], "cascaded")])

    def _momentum(self, plan: Plan, module: int) -> float:
        is_last = module == plan.modules - 2
        if self.moves == "last":
            return self.m if is_last else 1.0
        return self.m**2 if self.moves == "last_twice" and is_last else self.m

    @property
    def _cascade(self) -> int:
        assert self.cascade is not None
        return self.cascade

    @property
    def _weights(self) -> list[float]:
        assert self.weights is not None
        return self.weights
