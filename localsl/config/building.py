"""Builds the objects of the core from a configuration: its rule, its partition, its network."""

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
    """The partition of a configuration's backbone into modules."""
    return Partition(cfg.backbone, cfg.K, cfg.partition, cfg.dataset.name)


def resolved(cfg: RunT) -> RunT:
    """Fill in every value that the method derives from the network."""
    partition, method = partition_of(cfg), method_of(cfg)
    method = method.resolved(partition)
    own, aux, ema = method.settings()
    if aux is None:
        aux = published_weights(cfg.aux.scaled(cfg.backbone.scale), partition)
    rule: OwnSettings = dataclasses.replace(cfg.method, **own)
    cfg = dataclasses.replace(cfg, method=rule, aux=aux, ema=ema or cfg.ema)
    # A run has one id, whether or not the automatic choice is typed.
    if isinstance(method, HeadMethod):
        automatic = dataclasses.replace(cfg.partition, join_last=None)
        automatic_partition = dataclasses.replace(partition, settings=automatic)
        if method.joins_last(automatic_partition) == method.joins_last(partition):
            cfg = dataclasses.replace(cfg, partition=automatic)
    return cfg


def problems(cfg: Config) -> Iterator[Problem]:
    """Yield the conflicts between the rule, auxiliary networks and cuts of a resolved configuration."""
    method, name = method_of(cfg), cfg.method.name
    if method.aux is None and cfg.aux.head != "none":
        yield Problem("aux.head", cfg.aux.head, f"{name} has no auxiliary network", "leave aux_net out")
    if not isinstance(method, FollowingMethod) and cfg.ema.source != "none":
        yield Problem("ema.source", cfg.ema.source, f"{name} has no momentum layers", "leave ema out")
    if not isinstance(method, HeadMethod) and cfg.aux.depth is not None:
        what = f"{name} has no auxiliary network whose depth can be set"
        yield Problem("aux.depth", cfg.aux.depth, what, "leave aux.depth out")
    yield from consistency.recomputation_problems(cfg, method.checkpoint_segments(1))
    unfit = list(method.problems(partition_of(cfg)))
    yield from unfit
    if not unfit and cfg.parallel.name == "modules" and (cfg.processes or 1) > 1:
        yield from _sharing_problems(cfg)


def _sharing_problems(cfg: Config) -> Iterator[Problem]:
    """Yield the reasons why a network's modules cannot be distributed over its processes."""
    size, name = cfg.processes or 1, cfg.method.name
    _, objectives, _ = _described(cfg)
    if len(objectives) < size:
        held = "one module" if len(objectives) == 1 else f"{len(objectives)} modules"
        what = f"{name} trains {held}, which cannot be distributed over {size} processes"
        yield Problem("parallel", "modules", what, "type parallel=data, or start fewer processes")
        return
    cuts = open_cuts(objectives)
    if len(cuts) < size - 1:
        where = f"only before modules {', '.join(map(str, cuts))}" if cuts else "nowhere"
        what = f"losses of {name} span several modules: processes can be separated {where}"
        fewer = "start fewer processes" if cuts else "choose a rule without cascades, such as method=lam"
        yield Problem("parallel", "modules", what, f"type parallel=data, or {fewer}")


def planned(cfg: Config) -> tuple[Plan, Method]:
    """The backbone of a configuration with its cuts, without auxiliary networks, and the rule."""
    method, data = method_of(cfg), cfg.dataset
    backbone = cfg.backbone.build(data.num_classes)
    groups = method.groups(partition_of(cfg))
    return Plan(cfg.backbone, backbone, groups, data.num_classes, data.image_size), method


def build_network(cfg: Config) -> LocalNetwork:
    """Build the network of a configuration with its initial weights, which depend on `cfg` alone.

    The backbone's weights depend on the seed and the backbone only, so that all rules start from the same
    network; each module's auxiliary networks use separate random streams.
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
    """Operations per image of a training step, one number per module; see `operations.of_modules`."""
    plan, objectives, method = _described(cfg)
    segments = method.checkpoint_segments(len(cfg.backbone.local_layers()))
    return operations.of_modules(plan.backbone, objectives, plan.groups, cfg.dataset.image_size, segments)


def _described(cfg: Config) -> tuple[Plan, list[Objective], Method]:
    """The plan, objectives and rule of a configuration, on the meta device: nothing has memory."""
    with torch.device("meta"), ShapesOnly():
        plan, method = planned(cfg)
        return plan, method.objectives(plan), method


def _fractions(values: list[float]) -> list[float]:
    """Convert pixel values from 0..255 to single-precision fractions."""
    return (torch.tensor(values, device="cpu") / 255).tolist()
