"""Which run a configuration is: the part of it that decides the numbers, hashed, and the folder it names.

Configurations are taken as dicts, as `dataclasses.asdict` gives them and a run's config.yaml keeps them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from localsl import backbones, methods
from localsl.config.schema import Config, fields, leaves

# Where and how a run is executed and logged, and names that stand for values listed beside them.
EXCLUDED = ("channels_last", "memory", "compile", "cuda_graph", "optimizer.per_module", "deterministic")
EXCLUDED += ("device", "threads", "logger", "checkpoint", "data_dir", "output_dir", "results_dir", "sweep")
EXCLUDED += ("held", "show", "measure", "analysis", "runs", "dataset.root", "dataset.sgd_lr", "schedule.name")
EXCLUDED += ("recipe", "dataset.workers", "tf32", "fast")

# How long, on how many images and how a configuration is trained: what a cell of a table leaves open.
SETTING = ("schedule", "batch_size", "optimizer", "precision", "dataset.train_subset", "dataset.test_subset")
SETTING += ("dataset.validation", "processes", "sync_batchnorm")


def run_id(cfg: Config) -> str:
    """Eight hexadecimal digits that two runs share exactly if they are the same run."""
    return digest(identity(dataclasses.asdict(cfg)))


def cell_id(cfg: Config) -> str:
    """The same without the seed: what repeated runs have in common."""
    return digest(without(identity(dataclasses.asdict(cfg)), "seed"))


def signature(values: dict[str, Any]) -> str:
    """The same without all that a cell of a table leaves open."""
    return digest(without(identity(values), "seed", *SETTING))


def identity(values: dict[str, Any]) -> dict[str, Any]:
    """The values that decide a run's numbers, by their dotted names.

    A field that has a default in the schema is left out at that value, so that a run keeps its identity when
    the schema gets a field. A rule with one module is the same run for every K.
    """
    method = methods.find(values["method"]["rule"])
    known = fields(method, backbones.find(values["backbone"]["family"]))
    defaults = {path: _default(field) for path, field in known}
    kept = {path: v for path, v in leaves(values) if path not in defaults or defaults[path] != v}
    return without(kept, *EXCLUDED, *(("K", "partition") if method.single_module else ()))


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
    kept = identity(values)
    open_to = without(kept, *SETTING)
    return {path: value for path, value in kept.items() if path not in open_to}


def run_directory(cfg: Config) -> Path:
    """OUTPUT_DIR/<dataset>/<method>-<backbone>-K<K>/seed=<seed>-<run id>."""
    cut = "" if cfg.method.single_module else f"-K{cfg.K}"
    name = f"{cfg.method.name}-{cfg.backbone.name}{cut}"
    return Path(cfg.output_dir) / cfg.dataset.name / name / f"seed={cfg.seed}-{run_id(cfg)}"


def kept_directory(cfg: Config) -> Path:
    """Where a run's record lies once it is among the results: RESULTS_DIR/runs/<run id>."""
    return Path(cfg.results_dir) / "runs" / run_id(cfg)


def without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Without these dotted names and those below them."""
    below = tuple(f"{name}." for name in names)
    return {path: value for path, value in values.items() if not f"{path}.".startswith(below)}


def _default(field: dataclasses.Field) -> Any:
    if field.metadata.get("always"):
        return dataclasses.MISSING
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def digest(values: dict[str, Any]) -> str:
    """Eight hexadecimal digits of these values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
