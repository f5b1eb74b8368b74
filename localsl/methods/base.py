"""The base classes of all learning rules, which decide the cuts and one objective per module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, Self

from localsl.aux_nets.augmented import CONVOLUTIONS, STRATEGIES
from localsl.aux_nets.depth import pyramid
from localsl.aux_nets.momentum import EmaSettings
from localsl.aux_nets.settings import AuxSettings
from localsl.aux_nets.terms import Terms
from localsl.core.objectives import CrossEntropy, Objective, Part
from localsl.core.partition import Partition, joined
from localsl.core.plan import Plan
from localsl.core.settings import Problem
from localsl.published import constants


@dataclass(kw_only=True)
class Method:
    """A learning rule and its settings. Each file of this package has one subclass, named as in its paper.

    Rules of your own subclass this class, or `HeadMethod` if auxiliary networks on a module's own output train it.
    """

    single_module: ClassVar[bool] = False
    """True for a rule that trains the whole network as one module, so that K has no effect."""

    @property
    def aux(self) -> AuxSettings | None:
        """The settings of the rule's auxiliary networks, or None if it has none."""
        return None

    @property
    def batchnorm_every_forward(self) -> bool:
        """Whether every forward pass of a layer in a step updates BatchNorm's running statistics."""
        return True

    @classmethod
    def own_fields(cls) -> list[Field[Any]]:
        """The rule's own fields (`cfg.method`): those that neither `AuxSettings` nor `EmaSettings` has."""
        shared = {field.name for settings in (AuxSettings, EmaSettings) for field in fields(settings)}
        return [field for field in fields(cls) if field.name not in {*shared, "base"}]

    @classmethod
    def assembled(cls, own: dict[str, Any], aux: AuxSettings, ema: EmaSettings) -> Self:
        """Build the rule from its own fields and from `aux` and `ema`, where it has such settings."""
        return cls(**own)

    def settings(self) -> tuple[dict[str, Any], AuxSettings | None, EmaSettings | None]:
        """The arguments of `assembled`, with None for settings that the rule does not have."""
        return {field.name: getattr(self, field.name) for field in self.own_fields()}, self.aux, None

    def resolved(self, partition: Partition) -> Self:
        """A copy of the rule in which all values that depend on the network are filled in."""
        return self

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """Problems that keep this rule from training the network; called on a resolved rule."""
        return iter(())

    def notes(self, partition: Partition) -> Iterator[str]:
        """What a user should know about the rule with these settings, one sentence each."""
        return iter(())

    def groups(self, partition: Partition) -> list[range]:
        """The local layers of each module."""
        return partition.groups()

    def objectives(self, plan: Plan) -> list[Objective]:
        """One objective per module of the plan, in order."""
        raise NotImplementedError

    def checkpoint_segments(self, layers: int) -> int:
        """Into how many segments to divide `layers` layers for recomputation; 0 keeps all activations."""
        return 0


def output_objective(plan: Plan) -> Objective:
    """The last module's objective: cross-entropy of the backbone's classifier, weight 1."""
    return Objective([Part([CrossEntropy(plan.backbone.classifier)])])


def published_weights(aux: AuxSettings, partition: Partition) -> AuxSettings:
    """A copy in which None is replaced by InfoPro's loss weights for the data set, network, cuts and K."""
    weights = constants.infopro_weights(
        "published",
        scale=aux.scale or partition.architecture.scale,
        backbone=partition.architecture.name,
        dataset=partition.dataset,
        balance=partition.settings.balance,
        K=partition.K,
    )
    return aux.weighted(weights, "module")


def released_weights(aux: AuxSettings, over: str) -> AuxSettings:
    """A copy in which None is replaced by InfoPro's loss weights in the released MAN and MLAAN."""
    return aux.weighted(constants.infopro_weights("released", scale=aux.scale or "cifar"), over)


@dataclass(kw_only=True)
class HeadMethod(AuxSettings, Method):
    """A rule that trains each module by auxiliary networks on its own output; their depth can be set."""

    scale: str | None = None

    @property
    def aux(self) -> AuxSettings:
        """The rule itself, which has the fields of `AuxSettings`."""
        return self

    @classmethod
    def assembled(cls, own: dict[str, Any], aux: AuxSettings, ema: EmaSettings) -> Self:
        """Build the rule from its own fields and the settings of its auxiliary networks."""
        return cls(**own, **values(aux, AuxSettings))

    def settings(self) -> tuple[dict[str, Any], AuxSettings | None, EmaSettings | None]:
        """The arguments of `assembled`."""
        own, _, _ = super().settings()
        return own, AuxSettings(**values(self, AuxSettings)), None

    def resolved(self, partition: Partition) -> Self:
        """A copy with the network's scale, the pyramid of that scale, and InfoPro's weights in place of None."""
        method = published_weights(self.scaled(partition.architecture.scale), partition)
        if self.pyramid is None and self.depth and len(self.groups(partition)) == 2:
            method.pyramid = 0.0  # a single auxiliary network cannot become shallower
        return method  # pyright: ignore[reportReturnType]

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """Problems with depths and strategies that cannot be built."""
        yield from head_problems(self, partition)
        used, depth, K = _strategies(self), self.depth, partition.K
        if depth is None:
            if self.head == "auglocal":
                yield Problem("aux.depth", None, "AugLocal's networks need a depth", "type aux.depth=2 or more")
            return
        if used <= set(STRATEGIES) and used & set(CONVOLUTIONS) and len(used) > 1 and self.multiplier is None:
            what = "convolutions mixed with other strategies have no width that matches AugLocal's cost"
            yield Problem("aux.multiplier", None, what, "type aux.multiplier=1")
        before, groups = partition.groups(), self.groups(partition)
        if len(groups) < 2 <= len(before):
            what = f"at K={K} the last {depth} of {len(before)} modules are joined, which leaves no auxiliary network"
            deepest = len(before) - 2
            less = f"type aux.depth={deepest} or less, or " if deepest >= 2 else "type "
            yield Problem("aux.depth", depth, what, f"{less}partition.join_last=false")
        elif len(groups) == 2 and self.pyramid:
            what = f"the pyramid needs at least three modules, but K={K} with aux.depth={depth} makes two"
            yield Problem("aux.pyramid", self.pyramid, what, "type aux.pyramid=0, or another K")
        if partition.settings.join_last and not partition.layer_wise:
            what = "joins the last aux.depth layers only where every layer is a module, which is not so here"
            yield Problem("partition.join_last", True, what, "leave partition.join_last out")

    def groups(self, partition: Partition) -> list[range]:
        """The local layers of each module; the last d may form one module (`partition.join_last`)."""
        groups = partition.groups()
        return joined(groups, self.depth) if self.depth and self.joins_last(partition) else groups

    def notes(self, partition: Partition) -> Iterator[str]:
        """Note that `aux.depth` gives a rule other than AugLocal the pyramid and the joined last module as well."""
        if self.depth is None or self.head == "auglocal":
            return
        changes = ["its heads have another depth"]
        if len(set(pyramid(self.depth, len(self.groups(partition)), self.pyramid or 0.0))) > 1:
            changes.append(f"the depth decreases from module to module (aux.pyramid={self.pyramid})")
        if self.joins_last(partition):
            changes.append(f"the last {self.depth} layers form one module")
        yield f"note: aux.depth makes this a baseline of AugLocal's Table 9, not the plain rule: {', '.join(changes)}"

    def joins_last(self, partition: Partition) -> bool:
        """Whether the last d layers form one module: as set by `join_last`, else as in AugLocal's code."""
        join_last = partition.settings.join_last
        if join_last is not None:
            return join_last
        scale = self.scaled(partition.architecture.scale).of_scale
        return scale.joins_last and partition.layer_wise and partition.ends is None

    def objectives(self, plan: Plan) -> list[Objective]:
        """The terms on each module's output, and the cross-entropy of the backbone's classifier for the last."""
        terms = Terms(plan, self)
        objectives = []
        for module in range(plan.modules - 1):
            site = plan.site(module)
            objectives.append(Objective([Part(terms.at(site, plan.layers[site.layer].stage))]))
        return [*objectives, output_objective(plan)]


@dataclass(kw_only=True)
class FollowingMethod(EmaSettings, Method):
    """A rule whose losses see features through layers that follow later layers of the network.

    Attributes:
        base: the rule whose auxiliary networks it uses: `DGL()`, `InfoPro()` or `PredSim()`; by default DGL's.
    """

    base: AuxSettings = field(default_factory=lambda: AuxSettings(scale=None))

    @property
    def aux(self) -> AuxSettings:
        """The settings of the base."""
        return self.base

    @classmethod
    def assembled(cls, own: dict[str, Any], aux: AuxSettings, ema: EmaSettings) -> Self:
        """Build the rule from its own fields, with `aux` as the base and the momentum layers of `ema`."""
        return cls(**own, **values(ema, EmaSettings), base=aux)

    def settings(self) -> tuple[dict[str, Any], AuxSettings | None, EmaSettings | None]:
        """The arguments of `assembled`."""
        own, _, _ = super().settings()
        base = AuxSettings(**values(self.base, AuxSettings))
        return own, base, EmaSettings(**values(self, EmaSettings))

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """Problems with the heads of the base."""
        yield from head_problems(self.base, partition)


def values(settings: Any, of: type) -> dict[str, Any]:
    """The values in `settings` of the fields of dataclass `of`, by name."""
    return {field.name: getattr(settings, field.name) for field in fields(of)}


def _strategies(aux: AuxSettings) -> set[str]:
    """The strategies of heads with a depth; outside AugLocal these are 3x3 convolutions."""
    return set(aux.selection.split("/")) if aux.head == "auglocal" else {"conv3x3"}


def head_problems(aux: AuxSettings, partition: Partition) -> Iterator[Problem]:
    """Problems with unknown strategies, settings without an effect, and heads that do not fit the features."""
    if aux.head == "none":
        yield Problem("aux.head", "none", "modules are trained by auxiliary networks", "type aux_net=dgl")
        return
    used = _strategies(aux)
    if not set(aux.selection.split("/")) <= set(STRATEGIES):
        yield Problem("aux.selection", aux.selection, f"one of {', '.join(STRATEGIES)}, or one per stage")
    elif aux.head != "auglocal" and aux.selection != "uniform":
        what = f"applies only to AugLocal's networks, not to aux.head={aux.head}"
        yield Problem("aux.selection", aux.selection, what, "type method=auglocal, or leave it out")
    elif aux.multiplier is not None and (aux.depth is None or not used & set(CONVOLUTIONS)):
        what = "applies only to convolutional heads with a depth"
        yield Problem("aux.multiplier", aux.multiplier, what, "leave aux.multiplier out")
    if all(layer.layout in ("image", "map") for layer in partition.layers):
        return
    layouts = {layer.layout for layer in partition.layers}
    features = (
        f"the features of {partition.architecture.name} are {'tokens' if 'tokens' in layouts else 'vectors'}"
    )
    if aux.decodes:
        what = f"InfoPro's decoder needs images, but {features}"
        yield Problem("aux.lambda_reconstruction", aux.lambda_reconstruction, what, "choose another method")
    if aux.head[0] in "12" if aux.depth is None else used & set(CONVOLUTIONS):
        what = f"has 3x3 convolutions, but {features}"
        yield Problem("aux.head", aux.head, what, "choose dgl, linear (0c1f) or auglocal")
