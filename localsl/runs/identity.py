"""Where the run of a configuration lies, and how it compares with others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from localsl.config.fields import leaves
from localsl.config.identity import affecting, digest, identity, is_detection, run_id, without
from localsl.config.schema import Config
from localsl.core.settings import Affects

__all__ = ["affecting", "digest", "identity", "is_detection", "leaves", "run_id"]


def cell_id(cfg: Config) -> str:
    """A digest of what runs with different seeds have in common."""
    return digest(without(identity(dataclasses.asdict(cfg)), "seed"))


def signature(values: dict[str, Any]) -> str:
    """A digest of what is trained, without the seed and the setting that a table's cell leaves open."""
    return digest(without(affecting(values, Affects.NUMBERS, setting=False), "seed"))


def differing(values: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The dotted names of what decides the numbers in which two configurations differ."""
    one, two = identity(values), identity(other)
    return sorted(name for name in {*one, *two} if one.get(name) != two.get(name))


def telling(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The dotted names that tell configurations from each other: as few as do, in the order of names."""
    found, groups = [], [[identity(values) for values in configs]]
    for name in sorted({name for values in groups[0] for name in values}):
        split: list[list[dict[str, Any]]] = []
        for group in groups:
            by_value: dict[str, list[dict[str, Any]]] = {}
            for values in group:
                by_value.setdefault(str(values.get(name)), []).append(values)
            split += by_value.values()
        if len(split) > len(groups):
            found, groups = [*found, name], split
    return found


def setting(values: dict[str, Any]) -> dict[str, Any]:
    """What a cell of a table leaves open, but for the seed, by dotted names."""
    return affecting(values, Affects.NUMBERS, setting=True)


def run_directory(cfg: Config) -> Path:
    """OUTPUT_DIR/<dataset>/<method>-<backbone>-K<K>/seed=<seed>-<run id>, behind the name of the detector if any."""
    cut = "" if cfg.method.single_module else f"-K{cfg.K}"
    detector = f"{cfg.detector.name}-" if cfg.task.name == "detection" else ""
    name = f"{detector}{cfg.method.name}-{cfg.backbone.name}{cut}"
    return Path(cfg.output_dir) / cfg.dataset.name / name / f"seed={cfg.seed}-{run_id(cfg)}"


def kept_directory(cfg: Config) -> Path:
    """Where a run's record lies once it is among the results: RESULTS_DIR/runs/<run id>."""
    return Path(cfg.results_dir) / "runs" / run_id(cfg)
