"""Where a measurement is recorded, and what it is one of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from localsl import devices, identity, tracking

if TYPE_CHECKING:
    from localsl.settings import Config

# What a run's identity has beside this, and changes no cost.
UNCOUNTED = ("seed", "schedule", "dataset.name", "dataset.mean", "dataset.std", "dataset.padding")
UNCOUNTED += ("dataset.padding_mode", "dataset.flip", "dataset.train_subset", "dataset.test_subset")
UNCOUNTED += ("optimizer.lr", "optimizer.weight_decay", "optimizer.nesterov")


# What it has not, and changes a speed.
EXECUTION = ("channels_last",)


def signature(cfg: Config) -> str:
    """What a measurement is of: the run's identity but for what does not change its cost.

    Of a speed also how and on what it is run.
    """
    values = identity.without(identity.identity(asdict(cfg)), *UNCOUNTED)
    if cfg.measure == "speed":
        values |= {name: getattr(cfg, name) for name in EXECUTION}
        values["device"] = tracking.device_name(devices.chosen(cfg.device))
        values["threads"] = cfg.threads or torch.get_num_threads()
    return identity.digest(values)


def recorded(cfg: Config, root: Path) -> Path:
    """Where a measurement lies."""
    return root / "measured" / f"{cfg.measure}-{signature(cfg)}.json"
