"""K to contiguous groups of local layers: the published tables where one exists, an even split elsewhere.

At the layer-wise K, the number L of local layers (16 for ResNet-32, 55 for ResNet-110), every layer is a
module; `partition.stem=merged` joins the stem to the first block, as the released MAN and MLAAN do, whose
keys are L - 1 for that. At every smaller K the stem belongs to the first module. VGG has no stem: all its
layers are convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from localsl.schema import Problem

if TYPE_CHECKING:
    from localsl.settings import Config

# Last block of every module but the last. InfoPro's code, with K=32 from MAN's and MLAAN's; where two of
# the papers' code bases have a table for the same K, the tables agree.
PUBLISHED: dict[str, dict[int, str]] = {
    "resnet32": {
        2: "2.1",
        3: "1.4 2.4",
        4: "1.2 2.1 3.0",
        8: "1.0 1.2 1.4 2.1 2.3 3.0 3.2",
    },
    "resnet110": {
        2: "2.8",
        3: "1.17 2.17",
        4: "1.11 2.7 3.3",
        8: "1.4 1.11 2.0 2.7 2.14 3.3 3.10",
        16: "1.1 1.4 1.7 1.10 1.13 1.16 2.1 2.4 2.7 2.11 2.15 3.1 3.5 3.9 3.13",
        32: "1.1 1.2 1.4 1.5 1.7 1.9 1.11 1.13 1.14 1.16 1.17 "
        "2.1 2.2 2.4 2.5 2.7 2.9 2.11 2.13 2.14 2.16 2.17 "
        "3.1 3.3 3.4 3.6 3.7 3.9 3.11 3.13 3.15",
    },
    # ImageNet: InfoPro's, and MAN's for ResNet-34. MAN's code cuts ResNeXt-101 after 2.0.
    "resnet34": {2: "2.0"},
    "resnet101": {2: "2.0"},
    "resnet152": {2: "2.5"},
    "resnext101_32x8d": {2: "2.2"},
}

# K = 4 of MAN's tables for ImageNet, whose cuts are not published: InfoPro's of K = 2, and two that leave about
# as many activations in each of the other modules. MAN's code has heads for 1024 channels, those of stage 3.
CHOSEN: dict[str, dict[int, str]] = {
    "resnet101": {4: "2.0 3.3 3.13"},
    "resnet152": {4: "2.5 3.9 3.23"},
    "resnext101_32x8d": {4: "2.2 3.6 3.15"},
}

# InfoPro's star rows: modules of equal memory instead of equal depth.
BALANCED: dict[tuple[str, str], dict[int, str]] = {
    ("resnet110", "cifar10"): {2: "1.14", 3: "1.9 2.2", 4: "1.6 1.14 2.8"},
    ("resnet110", "stl10"): {2: "1.14", 3: "1.8 2.1", 4: "1.6 1.14 2.8"},
}


def problems(cfg: Config) -> Iterator[Problem]:
    """A K that the backbone cannot be cut into, or that has no memory-balanced table."""
    count = len(cfg.backbone.local_layers())
    if cfg.K < 1 or (count < cfg.K and not cfg.method.single_module):
        what = f"{cfg.backbone.name} has {count} local layers, so K must be 1 to {count}"
        yield Problem("K", cfg.K, what, f"type K={count} for one module per layer")
    if cfg.partition.balance == "memory" and not _balanced(cfg):
        known = "; ".join(f"{b} on {d} with K={'|'.join(map(str, t))}" for (b, d), t in BALANCED.items())
        what = f"memory-balanced cuts are published for {known}"
        yield Problem("partition.balance", "memory", what, "type partition.balance=depth")


def cut(cfg: Config) -> list[range]:
    """The local layers of each module, as ranges of indices that follow each other."""
    names = [layer.name for layer in cfg.backbone.local_layers()]
    ends = _balanced(cfg) if cfg.partition.balance == "memory" else None
    for table in (PUBLISHED, CHOSEN):
        ends = ends or table.get(cfg.backbone.name, {}).get(cfg.K)
    if ends:
        return _ranges([*(names.index(end) + 1 for end in ends.split()), len(names)])
    stem = 1 if names[0] == "stem" else 0
    if len(names) == cfg.K and (cfg.partition.stem == "own" or not stem):
        return [range(i, i + 1) for i in range(cfg.K)]
    return even(len(names), min(cfg.K, len(names) - stem), stem)


def layer_wise(cfg: Config) -> bool:
    """Whether every layer is a module, the stem perhaps joined to the first block."""
    layers = cfg.backbone.local_layers()
    merged = cfg.partition.stem == "merged" and layers[0].name == "stem"
    return cfg.K in (len(layers), len(layers) - merged)


def joins_last(cfg: Config) -> bool:
    """Whether the last d layers form one module: as typed, or, as in AugLocal's code, for small images with
    one module a layer.
    """
    if cfg.partition.join_last is None:
        return cfg.aux.scale != "imagenet" and layer_wise(cfg)
    return cfg.partition.join_last


def joined(groups: list[range], count: int) -> list[range]:
    """The same cuts without the last `count - 1`: the last `count` groups are one."""
    kept = groups[: max(0, len(groups) - count)]
    start = kept[-1].stop if kept else 0
    return [*kept, range(start, groups[-1].stop)]


def even(layers: int, K: int, stem: int = 1) -> list[range]:
    """K groups of blocks that differ by at most one, smaller ones first; a stem on top of the first."""
    sizes = [(layers - stem + i) // K for i in range(K)]
    return _ranges([stem + sum(sizes[: i + 1]) for i in range(K)])


def _balanced(cfg: Config) -> str | None:
    return BALANCED.get((cfg.backbone.name, cfg.dataset.name), {}).get(cfg.K)


def _ranges(stops: Sequence[int]) -> list[range]:
    return [range(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
