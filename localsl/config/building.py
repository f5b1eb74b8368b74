"""From a configuration to the objects of the core: its rule, its partition, its network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from localsl import methods
from localsl.config import consistency
from localsl.config.schema import Config, OwnSettings, RunT
from localsl.core import operations
from localsl.core.initialization import seeded
from localsl.core.network import LocalNetwork, build
from localsl.core.objectives import Objective, open_cuts
from localsl.core.operations import ShapesOnly
from localsl.core.partition import Partition
from localsl.core.plan import Plan
from localsl.core.settings import Problem
from localsl.methods.base import FollowingMethod, HeadMethod, Method, published_weights


def method_of(cfg: Config) -> Method:
    """The rule of a configuration, with its settings."""
    return methods.find(cfg.method.rule).assembled(cfg.method.own(), cfg.aux, cfg.ema)


def partition_of(cfg: Config) -> Partition:
    """How a configuration cuts its backbone."""
    return Partition(cfg.backbone, cfg.K, cfg.partition, cfg.dataset.name)


def resolved(cfg: RunT) -> RunT:
    """With every value that the method takes from the network filled in."""
    partition, method = partition_of(cfg), method_of(cfg)
    method = method.resolved(partition)
    own, aux, ema = method.settings()
    if aux is None:
        aux = published_weights(cfg.aux.scaled(cfg.backbone.scale), partition)
    rule: OwnSettings = dataclasses.replace(cfg.method, **own)
    cfg = dataclasses.replace(cfg, method=rule, aux=aux, ema=ema or cfg.ema)
    if isinstance(method, HeadMethod):  # one id for a run, whether what the code does anyway is typed or not
        automatic = dataclasses.replace(cfg.partition, join_last=None)
        untyped = dataclasses.replace(partition, settings=automatic)
        if method.joins_last(untyped) == method.joins_last(partition):
            cfg = dataclasses.replace(cfg, partition=automatic)
    return cfg


def problems(cfg: Config) -> Iterator[Problem]:
    """What does not go together of a resolved configuration's rule, auxiliary networks and cuts."""
    method, name = method_of(cfg), cfg.method.name
    if method.aux is not None and cfg.aux.head == "none":
        yield Problem("aux_net", "none", f"{name} trains modules by auxiliary networks", "type aux_net=dgl")
    if method.aux is None and cfg.aux.head != "none":
        yield Problem("aux_net", cfg.aux.head, f"{name} has no auxiliary network", "leave aux_net out")
    if not isinstance(method, FollowingMethod) and cfg.ema.source != "none":
        yield Problem("ema", cfg.ema.source, f"{name} has no momentum layers", "leave ema out")
    if not isinstance(method, HeadMethod) and cfg.aux.depth is not None:
        what = f"{name} has no auxiliary network whose depth can be set"
        yield Problem("aux.depth", cfg.aux.depth, what, "leave aux.depth out")
    yield from consistency.recomputation_problems(cfg, method.checkpoint_segments(1))
    unfit = list(method.problems(partition_of(cfg)))
    yield from unfit
    if not unfit and cfg.parallel.name == "modules" and (cfg.processes or 1) > 1:
        yield from _sharing_problems(cfg)


def _sharing_problems(cfg: Config) -> Iterator[Problem]:
    """What keeps a network's modules from being shared out to so many processes."""
    size, name = cfg.processes or 1, cfg.method.name
    _, objectives, _ = _described(cfg)
    if len(objectives) < size:
        held = "one module" if len(objectives) == 1 else f"{len(objectives)} modules"
        what = f"{name} trains {held}, which {size} processes cannot share out"
        yield Problem("parallel", "modules", what, "type parallel=data, or start fewer processes")
        return
    cuts = open_cuts(objectives)
    if len(cuts) < size - 1:
        where = f"before modules {', '.join(map(str, cuts))}" if cuts else "nowhere"
        what = f"losses of {name} reach over several modules: processes could be parted {where}"
        yield Problem("parallel", "modules", what, "type parallel=data, or a shorter method.cascade")


def planned(cfg: Config) -> tuple[Plan, Method]:
    """The backbone of a configuration with its cuts, before auxiliary networks are built, and the rule."""
    method, data = method_of(cfg), cfg.dataset
    backbone = cfg.backbone.build(data.num_classes)
    groups = method.groups(partition_of(cfg))
    return Plan(cfg.backbone, backbone, groups, data.num_classes, data.image_size), method


def build_network(cfg: Config) -> LocalNetwork:
    """The network of a configuration, with its initial weights: a function of `cfg` alone.

    The backbone's weights depend on the seed and the backbone only, so that rules start from the same
    network; each module's auxiliary networks have random numbers of their own.
    """
    data = cfg.dataset
    with seeded(cfg.seed, "backbone"):
        plan, method = planned(cfg)
    return build(
        plan,
        method.objectives,
        cfg.seed,
        mean=_fractions(data.mean),
        std=_fractions(data.std),
        batchnorm_every_forward=method.batchnorm_every_forward,
        segments=method.checkpoint_segments(len(cfg.backbone.local_layers())),
    )


def module_operations(cfg: Config) -> list[int]:
    """Operations of a training step per image, in every module's turn; see `operations.of_modules`."""
    plan, objectives, method = _described(cfg)
    segments = method.checkpoint_segments(len(cfg.backbone.local_layers()))
    return operations.of_modules(plan.backbone, objectives, plan.groups, cfg.dataset.image_size, segments)


def _described(cfg: Config) -> tuple[Plan, list[Objective], Method]:
    """The plan and the objectives of a configuration, without weights."""
    with torch.device("meta"), ShapesOnly():
        plan, method = planned(cfg)
        return plan, method.objectives(plan), method


def _fractions(values: list[float]) -> list[float]:
    """Pixel values of 0 to 255 as single-precision fractions of the range."""
    return (torch.tensor(values, device="cpu") / 255).tolist()
