"""MLAAN: cascades of several modules (MLM) in addition to each module's own loss, and leap bridges (LAM).

Zhang et al.: "MLAAN: Scaling Supervised Local Learning with Multilaminar Leap Augmented Auxiliary Network", AAAI
2025. A cascade is a loss at the end of a module whose gradients reach back over `cascade` modules, which trains
neighbouring modules together. A leap bridge is a chain of copies of early, middle and late layers of later modules,
which follow these by moving average. `leap=false` leaves MLM alone, and `cascade=1` leaves LAM alone.

Fields that method=mlaan_released leaves null take the released code's values, which depend on the base and on these
two switches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

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
    """Cascades and leap bridges on a base; the papers' rows without a base use linear classifiers.

    Attributes:
        cascade: k, the number of consecutive modules in a cascade; 1 for no cascades.
        leap: whether there are leap bridges.
        weights: weights of the independent and of the cascaded part.
        leap_on: the part with leap bridges: `independent` (paper), `cascaded` (released code), or `both`, each with
            bridges of its own.
        early_independent: whether the first k - 1 modules, at which no cascade ends, have a loss of their own (not
            in the released code).
        output: the last module's loss: cross-entropy through the `cascade` alone, with weight 1, or `both`: its
            own and the cascaded cross-entropy, with `weights` (the released MLM).
        independent_head: head of the independent part: the `base`'s, or InfoPro's 1c2f with the `contrastive` loss,
            as in the released code on InfoPro.
        batchnorm: whether running statistics are updated `once` per step, or in `every` forward pass (released code).
        lambdas: the loss weights of an InfoPro base that leaves them None: InfoPro's `published` ones, or those of
            the `released` MLAAN.
    """

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
        """Whether every forward pass of a layer in a step updates BatchNorm's running statistics."""
        return self.batchnorm == "every"

    def resolved(self, partition: Partition) -> Self:
        """A copy in which None is replaced by the released code's choice for the base and the scale."""
        base = self.base.scaled(partition.architecture.scale)
        filled = replace(self, **self._released(base))
        if self.lambdas == "published":
            base = published_weights(base, partition)
        else:
            base = released_weights(base, "stage" if self.leap else "module")
        return replace(filled.canonical(), base=base)  # pyright: ignore[reportReturnType]

    def _released(self, base: AuxSettings) -> dict[str, Any]:
        """The fields that are None, with the values of MLAAN's released code for this base."""
        decodes, linear, imagenet = base.decodes, base.head == "0c1f", base.scale == "imagenet"
        cascade = self.cascade or (2 if linear and self.leap and not imagenet else 3)
        lam_only, mlm_only = cascade == 1, not self.leap
        choices: dict[str, Any] = {
            "cascade": cascade,
            "weights": [0.01, 0.99] if mlm_only and not decodes else [0.001, 0.999],
            "output": "both" if mlm_only or imagenet else "cascade",
            "independent_head": "contrastive" if decodes and self.leap and not lam_only else "base",
            "gradient": decodes and not lam_only,
            "moves": "last_twice" if lam_only or imagenet else "last",
            "start": "fresh" if imagenet else "copy",
        }
        return {name: value for name, value in choices.items() if getattr(self, name) is None}

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """Problems with the base, cascades longer than the network, and bridges without layers."""
        yield from super().problems(partition)
        modules = len(self.groups(partition))
        assert self.cascade is not None
        if self.cascade > modules:
            what = f"a cascade cannot be longer than the {modules} modules of K={partition.K}"
            yield Problem("method.cascade", self.cascade, what, f"type method.cascade={min(3, modules)}")
        if self.cascade == 1 and not self.leap:
            what = "without cascades and leap bridges, only the base is left"
            yield Problem("method.leap", False, what, "type method=dgl, or method.cascade=3")
        if self.base.head == "auglocal":
            what = "the base must be linear, DGL, InfoPro or PredSim"
            yield Problem("aux.head", "auglocal", what, "type aux_net=linear")
        if self.leap and self.source == "none" and self.bias != "block":
            what = f"with ema.bias={self.bias} a leap bridge has no layers"
            yield Problem("ema.source", "none", what, "type ema.bias=block for trained layers without averages")

    def objectives(self, plan: Plan) -> list[Objective]:
        """The independent and cascaded parts of every module."""
        terms = Terms(plan, self.base)
        local = [self._objective(plan, terms, module) for module in range(plan.modules - 1)]
        return [*local, self._output(plan)]

    def _objective(self, plan: Plan, terms: Terms, module: int) -> Objective:
        lam_only = self._cascade == 1
        ends_cascade = not lam_only and module + 1 >= self._cascade
        parts = []
        if lam_only or self.early_independent or ends_cascade:
            has_bridge = self.leap and (lam_only or self.leap_on != "cascaded")
            weight = 1.0 if lam_only else self._weights[0]
            parts.append(self._part(plan, terms, module, has_bridge, name="independent", weight=weight))
        if ends_cascade:
            has_bridge = self.leap and self.leap_on != "independent"
            part = self._part(plan, terms, module, has_bridge, name="cascaded", weight=self._weights[1])
            parts.append(replace(part, span=self._cascade))
        return Objective(parts)

    def _part(
        self, plan: Plan, terms: Terms, module: int, has_bridge: bool, *, name: str, weight: float
    ) -> Part:
        own = plan.site(module)
        # Every bridge ends with a copy of the network's last layer.
        site = plan.site(module, len(plan.layers) - 1) if has_bridge else own
        part_terms = terms.at(site, plan.layers[own.layer].stage)
        if name == "independent" and self.independent_head == "contrastive":
            *others, last = part_terms
            part_terms = [*others, Contrastive(terms.contrastive_head(site), last.weight)]
        bridge = leap.bridge(plan, module, self, self._momentum(plan, module)) if has_bridge else None
        return Part(part_terms, bridge, weight=weight, name=name)

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
