"""Which run a configuration is: the part of it that decides the numbers, hashed, and the folder it names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localsl.settings import Config

# Where and how a run is executed and logged, and names that stand for values listed beside them.
EXCLUDED = ("channels_last", "device", "threads", "logger", "data_dir", "output_dir", "show")
EXCLUDED_NESTED = (("dataset", "root"), ("dataset", "sgd_lr"), ("schedule", "name"))


def identity(cfg: Config) -> dict[str, Any]:
    """The values that decide a run's numbers. A rule with one module is the same run for every K."""
    values = {key: value for key, value in asdict(cfg).items() if key not in EXCLUDED}
    for group, key in EXCLUDED_NESTED:
        del values[group][key]
    if cfg.method.single_module:
        del values["K"], values["partition"]
    return values


def run_id(cfg: Config) -> str:
    """Eight hexadecimal digits that two runs share exactly if they are the same run."""
    return _digest(identity(cfg))


def cell_id(cfg: Config) -> str:
    """The same without the seed: what repeated runs have in common."""
    values = identity(cfg)
    del values["seed"]
    return _digest(values)


def run_directory(cfg: Config) -> Path:
    """OUTPUT_DIR/<dataset>/<method>-<backbone>-K<K>/seed=<seed>-<run id>."""
    cut = "" if cfg.method.single_module else f"-K{cfg.K}"
    setting = f"{cfg.method.name}-{cfg.backbone.name}{cut}"
    return Path(cfg.output_dir) / cfg.dataset.name / setting / f"seed={cfg.seed}-{run_id(cfg)}"


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
