"""The folder of a run, and how its configuration compares with others."""

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
    """A digest shared by runs that differ in the seed only."""
    return digest(without(identity(dataclasses.asdict(cfg)), "seed"))


def signature(values: dict[str, Any]) -> str:
    """A digest of a configuration's identity without the seed and the settings that a table's cell leaves open."""
    return digest(without(affecting(values, Affects.NUMBERS, setting=False), "seed"))


def differing(values: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The dotted names of the identity's values in which two configurations differ."""
    first, second = identity(values), identity(other)
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def distinguishing(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The dotted names that distinguish configurations: a small set, chosen greedily in alphabetical order."""
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
    """The values that a table's cell leaves open, without the seed, by dotted name."""
    return affecting(values, Affects.NUMBERS, setting=True)


def run_directory(cfg: Config) -> Path:
    """The folder of a run.

    It is OUTPUT_DIR/<dataset>/<method>-<backbone>-K<K>/seed=<seed>-<run id>; in detection the name of the detector
    comes before that of the method.
    """
    cut = "" if cfg.method.single_module else f"-K{cfg.K}"
    detector = f"{cfg.detector.name}-" if cfg.task.name == "detection" else ""
    name = f"{detector}{cfg.method.name}-{cfg.backbone.name}{cut}"
    return Path(cfg.output_dir) / cfg.dataset.name / name / f"seed={cfg.seed}-{run_id(cfg)}"


def kept_directory(cfg: Config) -> Path:
    """The folder of a run's record among the results: RESULTS_DIR/runs/<run id>."""
    return Path(cfg.results_dir) / "runs" / run_id(cfg)
