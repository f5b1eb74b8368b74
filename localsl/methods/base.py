"""What every learning rule has in common: where it cuts, and one objective per module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar, Self

from localsl.aux_nets.augmented import CONVOLUTIONS, STRATEGIES
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
    """A learning rule and its settings. Each file of this package has one subclass, named as its paper names it.

    A rule of one's own is a subclass too: of this class, or of `HeadMethod` where modules are trained by auxiliary
    networks on their own output.
    """

    single_module: ClassVar[bool] = False
    """True for a rule that trains the whole network as one module: K then says nothing."""

    aux_net: ClassVar[str] = "none"
    """The file of conf/aux_net that the command line takes for a rule that conf/method has no file of."""

    ema: ClassVar[str] = "none"
    """Likewise the file of conf/ema."""

    @property
    def aux(self) -> AuxSettings | None:
        """The settings of its auxiliary networks, if it has any."""
        return None

    @property
    def batchnorm_every_forward(self) -> bool:
        """Whether each of several forwards of a layer in one step moves BatchNorm's running statistics."""
        return True

    @classmethod
    def own_fields(cls) -> list[Field[Any]]:
        """Its fields beside those of auxiliary networks and of layers that follow others (`cfg.method`)."""
        shared = {field.name for settings in (AuxSettings, EmaSettings) for field in fields(settings)}
        return [field for field in fields(cls) if field.name not in {*shared, "base"}]

    @classmethod
    def assembled(cls, own: dict[str, Any], aux: AuxSettings, ema: EmaSettings) -> Self:
        """The rule with its own fields, and with those of `aux` and `ema` that it has."""
        return cls(**own)

    def settings(self) -> tuple[dict[str, Any], AuxSettings | None, EmaSettings | None]:
        """What `assembled` takes: None for what the rule does not have."""
        return {field.name: getattr(self, field.name) for field in self.own_fields()}, self.aux, None

    def resolved(self, partition: Partition) -> Self:
        """The same with every value that depends on the network filled in."""
        return self

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """What this rule cannot work with; asked once it is resolved."""
        return iter(())

    def notes(self, partition: Partition) -> Iterator[str]:
        """What a user should know of the rule with these settings, a sentence each."""
        return iter(())

    def groups(self, partition: Partition) -> list[range]:
        """The local layers of each module."""
        return partition.groups()

    def objectives(self, plan: Plan) -> list[Objective]:
        """What trains each module."""
        raise NotImplementedError

    def checkpoint_segments(self, layers: int) -> int:
        """In how many pieces a module's forward is recomputed in its backward; 0 keeps all activations."""
        return 0


def output(plan: Plan) -> Objective:
    """The last module's objective: cross-entropy of the backbone's classifier, weight 1."""
    return Objective([Part([CrossEntropy(plan.backbone.classifier)])])


def published_weights(aux: AuxSettings, partition: Partition) -> AuxSettings:
    """With InfoPro's loss weights for the data set, network, cuts and K, where they are None."""
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
    """With the loss weights of the released MAN and MLAAN, where they are None."""
    return aux.weighted(constants.infopro_weights("released", scale=aux.scale or "cifar"), over)


@dataclass(kw_only=True)
class HeadMethod(AuxSettings, Method):
    """A rule whose auxiliary networks are on a module's own output; their depth can be set."""

    aux_net: ClassVar[str] = "dgl"

    scale: str | None = None

    @property
    def aux(self) -> AuxSettings:
        """Its own."""
        return self

    @classmethod
    def assembled(cls, own: dict[str, Any], aux: AuxSettings, ema: EmaSettings) -> Self:
        """With the auxiliary networks of `aux`."""
        return cls(**own, **values(aux, AuxSettings))

    def settings(self) -> tuple[dict[str, Any], AuxSettings | None, EmaSettings | None]:
        """What `assembled` takes."""
        own, _, _ = super().settings()
        return own, AuxSettings(**values(self, AuxSettings)), None

    def resolved(self, partition: Partition) -> Self:
        """With the network's scale, its pyramid, and InfoPro's weights where they are None."""
        method = published_weights(self.scaled(partition.architecture.scale), partition)
        if self.pyramid is None and self.depth and len(self.groups(partition)) == 2:
            method.pyramid = 0.0  # which runs from the first auxiliary network to the last, and there is one
        return method  # pyright: ignore[reportReturnType]

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """Depths and strategies that cannot be built."""
        yield from head_problems(self, partition)
        used, depth, K = _strategies(self), self.depth, partition.K
        if depth is None:
            if self.head == "auglocal":
                yield Problem("aux.depth", None, "AugLocal's networks have a depth", "type aux.depth=2 or more")
            return
        if used <= set(STRATEGIES) and used & set(CONVOLUTIONS) and len(used) > 1 and self.multiplier is None:
            what = "convolutions beside other strategies have no width that matches AugLocal's cost"
            yield Problem("aux.multiplier", None, what, "type aux.multiplier=1")
        before, groups = partition.groups(), self.groups(partition)
        if len(groups) < 2 <= len(before):
            what = f"at K={K} the last {depth} of {len(before)} modules are one, and none is left"
            yield Problem("aux.depth", depth, what, f"type aux.depth={len(before) - 2} or less")
        elif len(groups) == 2 and self.pyramid:
            what = f"the pyramid needs three modules or more, and K={K} with aux.depth={depth} makes two"
            yield Problem("aux.pyramid", self.pyramid, what, "type aux.pyramid=0, or another K")
        if partition.settings.join_last and not partition.layer_wise:
            what = "joins the last aux.depth layers where every layer is a module, and here it has no meaning"
            yield Problem("partition.join_last", True, what, "leave partition.join_last out")

    def groups(self, partition: Partition) -> list[range]:
        """With a depth d the last d layers may be one module (`partition.join_last`)."""
        groups = partition.groups()
        return joined(groups, self.depth) if self.depth and self.joins_last(partition) else groups

    def notes(self, partition: Partition) -> Iterator[str]:
        """Of a rule that is not AugLocal, that a depth brings more of AugLocal than heads of that depth."""
        if self.depth is not None and self.head != "auglocal":
            joins = f", and the last {self.depth} layers are one module" if self.joins_last(partition) else ""
            pyramid = f"the depth of heads falls with aux.pyramid={self.pyramid}"
            yield f"note: aux.depth makes this a baseline of AugLocal's Table 9: {pyramid}{joins}"

    def joins_last(self, partition: Partition) -> bool:
        """Whether the last d layers are one module: as set, or as AugLocal's code does."""
        typed = partition.settings.join_last
        automatic = self.scaled(partition.architecture.scale).of_scale.joins_last and partition.layer_wise
        return automatic and partition.ends is None if typed is None else typed

    def objectives(self, plan: Plan) -> list[Objective]:
        """Each module but the last is trained by the terms of its auxiliary networks on its output."""
        terms = Terms(plan, self)
        objectives = []
        for module in range(plan.modules - 1):
            site = plan.site(module)
            objectives.append(Objective([Part(terms.at(site, plan.layers[site.layer].stage))]))
        return [*objectives, output(plan)]


@dataclass(kw_only=True)
class FollowingMethod(EmaSettings, Method):
    """A rule on a base, whose losses see features through layers that follow later ones.

    Attributes:
        base: the auxiliary networks that it builds on: `DGL()`, `InfoPro()`, `PredSim()`.
    """

    aux_net: ClassVar[str] = "dgl"
    ema: ClassVar[str] = "man"

    base: AuxSettings

    @property
    def aux(self) -> AuxSettings:
        """The base's."""
        return self.base

    @classmethod
    def assembled(cls, own: dict[str, Any], aux: AuxSettings, ema: EmaSettings) -> Self:
        """On the auxiliary networks of `aux`, with the layers of `ema`."""
        return cls(**own, **values(ema, EmaSettings), base=aux)

    def settings(self) -> tuple[dict[str, Any], AuxSettings | None, EmaSettings | None]:
        """What `assembled` takes."""
        own, _, _ = super().settings()
        base = AuxSettings(**values(self.base, AuxSettings))
        return own, base, EmaSettings(**values(self, EmaSettings))

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """Heads that the base cannot have."""
        yield from head_problems(self.base, partition)


def values(settings: Any, of: type) -> dict[str, Any]:
    """The fields of `of` that `settings` has, by name."""
    return {field.name: getattr(settings, field.name) for field in fields(of)}


def _strategies(aux: AuxSettings) -> set[str]:
    """How heads of a depth are made; of a rule without one they are convolutions."""
    return set(aux.selection.split("/")) if aux.head == "auglocal" else {"conv3x3"}


def head_problems(aux: AuxSettings, partition: Partition) -> Iterator[Problem]:
    """A choice of layers that is none, choices without an effect, and heads that cannot take the features."""
    used = _strategies(aux)
    if not set(aux.selection.split("/")) <= set(STRATEGIES):
        yield Problem("aux.selection", aux.selection, f"one of {', '.join(STRATEGIES)}, or one per stage")
    elif aux.head != "auglocal" and aux.selection != "uniform":
        what = f"is how AugLocal's networks are made, and these are of aux.head={aux.head}"
        yield Problem("aux.selection", aux.selection, what, "type method=auglocal, or leave it out")
    elif aux.multiplier is not None and (aux.depth is None or not used & set(CONVOLUTIONS)):
        what = "is the width of convolutional heads of a depth, and these are none"
        yield Problem("aux.multiplier", aux.multiplier, what, "leave aux.multiplier out")
    if all(layer.layout in ("image", "map") for layer in partition.layers):
        return
    name = partition.architecture.name
    if aux.decodes:
        what = f"InfoPro's decoder restores an image from image features, and those of {name} are tokens"
        yield Problem("aux.lambda_reconstruction", aux.lambda_reconstruction, what, "take another method")
    if aux.head[0] in "12" if aux.depth is None else used & set(CONVOLUTIONS):
        what = f"has 3x3 convolutions, and the features of {name} are tokens"
        yield Problem("aux.head", aux.head, what, "take dgl, linear (0c1f) or auglocal")
