"""What every learning rule has in common: where it cuts, and one objective per module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from localsl import partition
from localsl.aux_nets import lambdas
from localsl.aux_nets.augmented import CONVOLUTIONS, STRATEGIES
from localsl.aux_nets.terms import Terms
from localsl.objectives import CrossEntropy, Objective, Part
from localsl.schema import Problem

if TYPE_CHECKING:
    from localsl.plan import Plan
    from localsl.settings import AuxConfig, Config


@dataclass(kw_only=True)
class Method:
    """Settings of a rule (`cfg.method`). A subclass named `Settings` in its own file says what differs.

    Left as it is, each module but the last is trained by the terms of `cfg.aux` on its output.
    """

    name: str
    """What the run is called: a file of conf/method."""

    rule: str
    """The file of localsl/methods that the settings are of: two forms of a rule share it."""

    single_module: ClassVar[bool] = False
    """True for a rule that trains the whole network as one module: K then says nothing."""

    auxiliary: ClassVar[bool] = True
    """Whether modules have auxiliary networks."""

    momentum: ClassVar[bool] = False
    """Whether there are layers that `cfg.ema` describes."""

    depth: ClassVar[bool] = False
    """Whether `aux.depth` can be given."""

    batchnorm_every_forward: ClassVar[bool] = True
    """Whether each of several forwards of a layer in one step moves BatchNorm's running statistics."""

    def resolved(self, cfg: Config) -> Config:
        """The configuration with values left null filled in: InfoPro's loss weights."""
        return with_lambdas(cfg, lambdas.published(cfg), "module")

    def problems(self, cfg: Config) -> Iterator[Problem]:
        """What in the configuration this rule cannot work with."""
        if self.auxiliary and cfg.aux.head == "none":
            yield Problem(
                "aux_net", "none", f"{self.name} trains modules by auxiliary networks", "type aux_net=dgl"
            )
        if not self.auxiliary and cfg.aux.head != "none":
            yield Problem("aux_net", cfg.aux.head, f"{self.name} has no auxiliary network", "leave aux_net out")
        if not self.momentum and cfg.ema.source != "none":
            yield Problem("ema", cfg.ema.source, f"{self.name} has no momentum layers", "leave ema out")
        if not self.depth and cfg.aux.depth is not None:
            what = f"{self.name} has no auxiliary network whose depth can be set"
            yield Problem("aux.depth", cfg.aux.depth, what, "leave aux.depth out")
        yield from _head_problems(cfg.aux)

    def notes(self, cfg: Config) -> Iterator[str]:
        """What is worth knowing of a configuration before it runs, as sentences."""
        return iter(())

    def groups(self, cfg: Config) -> list[range]:
        """The local layers of each module."""
        return partition.cut(cfg)

    def objectives(self, plan: Plan) -> list[Objective]:
        """What trains each module."""
        terms = Terms(plan)
        objectives = []
        for module in range(plan.modules - 1):
            site = plan.site(module)
            objectives.append(Objective([Part(terms.at(site, plan.layers[site.layer].stage))]))
        return [*objectives, output(plan)]

    def checkpoint_segments(self, cfg: Config) -> int:
        """In how many pieces a module's forward is recomputed in its backward; 0 keeps all activations."""
        return 0


def _strategies(aux: AuxConfig) -> set[str]:
    """How heads of a depth are made; of a rule without one they are convolutions."""
    return set(aux.selection.split("/")) if aux.head == "auglocal" else {"conv3x3"}


def _head_problems(aux: AuxConfig) -> Iterator[Problem]:
    """A choice of layers that is none, and choices that nothing would heed."""
    used = _strategies(aux)
    if not set(aux.selection.split("/")) <= set(STRATEGIES):
        yield Problem("aux.selection", aux.selection, f"one of {', '.join(STRATEGIES)}, or one per stage")
    elif aux.head != "auglocal" and aux.selection != "uniform":
        what = f"is how AugLocal's networks are made, and these are of aux.head={aux.head}"
        yield Problem("aux.selection", aux.selection, what, "type method=auglocal, or leave it out")
    elif aux.multiplier is not None and (aux.depth is None or not used & set(CONVOLUTIONS)):
        what = "is the width of convolutional heads of a depth, and these are none"
        yield Problem("aux.multiplier", aux.multiplier, what, "leave aux.multiplier out")


def output(plan: Plan) -> Objective:
    """The last module's objective: cross-entropy of the backbone's classifier, weight 1."""
    return Objective([Part([CrossEntropy(plan.backbone.classifier)])])


def with_scale(cfg: Config) -> Config:
    """The configuration with what AugLocal's code sets by the scale of the network, wherever it is null."""
    scale = cfg.aux.scale or cfg.backbone.scale
    pyramid = cfg.aux.pyramid
    if pyramid is None:
        pyramid = 0.0 if scale == "imagenet" else 0.5
    return replace(cfg, aux=replace(cfg.aux, scale=scale, pyramid=pyramid))


def with_lambdas(cfg: Config, values: lambdas.Lambdas, over: str) -> Config:
    """The configuration with these loss weights wherever `cfg.aux` has null."""
    aux, (first_r, first_ce, last_r, last_ce) = cfg.aux, values
    if aux.lambda_reconstruction is None:
        aux = replace(aux, lambda_reconstruction=[first_r, last_r])
    if aux.lambda_ce is None:
        aux = replace(aux, lambda_ce=[first_ce, last_ce])
    if aux.lambda_over is None:
        aux = replace(aux, lambda_over=over)
    return replace(cfg, aux=aux)


@dataclass(kw_only=True)
class HeadMethod(Method):
    """A rule whose auxiliary networks are terms on a module's own output, of a depth that can be set."""

    depth: ClassVar[bool] = True

    def resolved(self, cfg: Config) -> Config:
        """Also with `partition.join_last` null where it says what AugLocal's code does."""
        automatic = replace(cfg, partition=replace(cfg.partition, join_last=None))
        same = partition.joins_last(automatic) == partition.joins_last(cfg)
        return super().resolved(automatic if same else cfg)

    def problems(self, cfg: Config) -> Iterator[Problem]:
        """Depths and strategies that cannot be built."""
        yield from super().problems(cfg)
        if cfg.partition.join_last and not (cfg.aux.depth and partition.layer_wise(cfg)):
            what = "joins the last aux.depth layers where every layer is a module, and here it has no meaning"
            yield Problem("partition.join_last", True, what, "leave partition.join_last out")
        aux, used = cfg.aux, _strategies(cfg.aux)
        if aux.depth is None:
            if aux.head == "auglocal":
                yield Problem("aux.depth", None, "AugLocal's networks have a depth", "type aux.depth=2 or more")
            return
        if used <= set(STRATEGIES) and used & set(CONVOLUTIONS) and len(used) > 1 and aux.multiplier is None:
            what = "convolutions beside other strategies have no width that matches AugLocal's cost"
            yield Problem("aux.multiplier", None, what, "type aux.multiplier=1")
        before, groups = partition.cut(cfg), self.groups(cfg)
        if len(groups) < 2 <= len(before):
            what = f"at K={cfg.K} the last {aux.depth} of {len(before)} modules are one, and none is left"
            yield Problem("aux.depth", aux.depth, what, f"type aux.depth={len(before) - 2} or less")
        elif len(groups) == 2 and aux.pyramid:
            what = (
                f"the pyramid needs three modules or more, and K={cfg.K} with aux.depth={aux.depth} makes two"
            )
            yield Problem("aux.pyramid", aux.pyramid, what, "type aux.pyramid=0, or another K")

    def notes(self, cfg: Config) -> Iterator[str]:
        """Of a rule that is not AugLocal, that `aux.depth` brings more of AugLocal than heads of that depth."""
        if cfg.aux.depth is not None and cfg.aux.head != "auglocal":
            joined = (
                f", and the last {cfg.aux.depth} layers are one module" if partition.joins_last(cfg) else ""
            )
            pyramid = f"the depth of heads falls with aux.pyramid={cfg.aux.pyramid}"
            yield f"note: aux.depth makes this a baseline of AugLocal's Table 9: {pyramid}{joined}"

    def groups(self, cfg: Config) -> list[range]:
        """The groups of the partition; with a depth d the last d layers may be one (`partition.join_last`)."""
        groups = partition.cut(cfg)
        if cfg.aux.depth is None or not partition.joins_last(cfg):
            return groups
        return partition.joined(groups, cfg.aux.depth)
