"""Which run a configuration is: the part of it that decides the numbers, hashed.

Configurations are taken as dicts, as `dataclasses.asdict` gives them and a run's config.yaml keeps them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from localsl import backbones, methods
from localsl.config.schema import Config, fields, leaves

# Where and how a run is executed and logged, and names that stand for values listed beside them.
EXCLUDED = ("channels_last", "memory", "compile", "cuda_graph", "optimizer.per_module", "deterministic")
EXCLUDED += ("device", "threads", "logger", "checkpoint", "data_dir", "output_dir", "results_dir", "sweep")
EXCLUDED += ("held", "show", "measure", "analysis", "runs", "dataset.root", "dataset.sgd_lr", "schedule.name")
EXCLUDED += ("recipe", "dataset.workers", "tf32", "fast", "detector.batch_size", "detector.lr")
EXCLUDED += ("backbone_folder", "parallel")

# How long, on how many images and how a configuration is trained: what a cell of a table leaves open.
SETTING = ("schedule", "batch_size", "optimizer", "precision", "dataset.train_subset", "dataset.test_subset")
SETTING += ("dataset.validation", "processes", "sync_batchnorm", "backbone_run")


def run_id(cfg: Config) -> str:
    """Eight hexadecimal digits that two runs share exactly if they are the same run."""
    return digest(identity(dataclasses.asdict(cfg)))


def identity(values: dict[str, Any]) -> dict[str, Any]:
    """The values that decide a run's numbers, by their dotted names.

    A field that has a default in the schema is left out at that value, so that a run keeps its identity when
    the schema gets a field. A rule with one module is the same run for every K, only detection has a detector, and
    processes that share out the modules do what one would.
    """
    method = methods.find(values["method"]["rule"])
    known = fields(method, backbones.find(values["backbone"]["family"]))
    defaults = {path: _default(field) for path, field in known}
    kept = {path: v for path, v in leaves(values) if path not in defaults or defaults[path] != v}
    unused = ["K", "partition"] if method.single_module else []
    unused += [] if is_detection(values) else ["detector"]
    unused += ["processes"] if values.get("parallel", {}).get("name") == "modules" else []
    return without(kept, *EXCLUDED, *unused)


def is_detection(values: dict[str, Any]) -> bool:
    """Whether a configuration is a detector's."""
    return values.get("task", {}).get("name") == "detection"


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
