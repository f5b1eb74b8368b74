"""Where a measurement is recorded, and what it is one of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from localsl import identity, tracking
from localsl.execution import devices

if TYPE_CHECKING:
    from localsl.settings import Config

# What a run's identity has beside this, and changes no cost.
UNCOUNTED = ("seed", "schedule", "dataset.name", "dataset.mean", "dataset.std", "dataset.padding")
UNCOUNTED += ("dataset.padding_mode", "dataset.flip", "dataset.train_subset", "dataset.test_subset")
UNCOUNTED += ("dataset.top5", "dataset.skip_broken")
UNCOUNTED += ("optimizer.lr", "optimizer.weight_decay", "optimizer.nesterov")


# What it has not, and changes a cost: memory and speed, or speed alone.
LEAN = ("memory", "optimizer.per_module")
FAST = ("channels_last", "compile", "cuda_graph")


def signature(cfg: Config) -> str:
    """What a measurement is of: the run's identity but for what does not change its cost, and what else does.

    Of a speed also what it is run on.
    """
    values = dict(identity.leaves(asdict(cfg)))
    counted = identity.without(identity.identity(asdict(cfg)), *UNCOUNTED)
    counted |= {name: values[name] for name in LEAN if values[name] not in ("plain", False)}
    if cfg.measure == "speed":
        counted |= {name: values[name] for name in FAST}
        counted["device"] = tracking.device_name(devices.chosen(cfg.device))
        counted["threads"] = cfg.threads or torch.get_num_threads()
    return identity.digest(counted)


def recorded(cfg: Config, root: Path) -> Path:
    """Where a measurement lies."""
    return root / "measured" / f"{cfg.measure}-{signature(cfg)}.json"


def measured(cfg: Config) -> dict[str, Any] | None:
    """What is known of a configuration, in OUTPUT_DIR or among the results: rather with a GPU's figures."""
    found = [tracking.read(recorded(cfg, Path(root))) for root in (cfg.output_dir, cfg.results_dir)]
    known = [record for record in found if record is not None]
    return min(known, key=lambda record: allocated_bytes(record) is None, default=None)


def allocated_bytes(record: dict[str, Any]) -> int | None:
    """The CUDA allocator's peak, where memory was measured on a GPU."""
    return record["figures"].get("cuda_allocator_peak_bytes")
