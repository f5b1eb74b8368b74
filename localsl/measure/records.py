"""Where a measurement is recorded, and what it is one of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localsl.execution import devices
from localsl.runs import identity, provenance, tracking

if TYPE_CHECKING:
    from localsl.config.schema import Config

# What a run's identity has beside this, and changes no cost.
UNCOUNTED = ("seed", "schedule", "dataset.name", "dataset.mean", "dataset.std", "dataset.padding")
UNCOUNTED += ("dataset.padding_mode", "dataset.flip", "dataset.train_subset", "dataset.test_subset")
UNCOUNTED += ("dataset.validation", "dataset.top5", "dataset.skip_broken", "ema.bias_start")
UNCOUNTED += ("optimizer.lr", "optimizer.weight_decay", "optimizer.nesterov")


# What it has not, and changes a cost: memory and time, or time alone.
LEAN = ("memory", "optimizer.per_module")
FAST = ("channels_last", "compile", "cuda_graph", "deterministic", "tf32")

# Of these, what joined later: measurements at these values keep their names.
JOINED = {"deterministic": False, "tf32": True}

TIMES = ("speed", "overhead", "pipeline")  # each machine has its own


def cost_id(cfg: Config) -> str:
    """What a measurement is of: a run's identity less what leaves its cost alone, and what else changes it.

    An overhead is a ratio: that of another batch, which a smaller machine can take, tells of the same cell, and
    is one of several as that of another machine is.
    """
    values = dict(identity.leaves(asdict(cfg)))
    counted = identity.without(identity.identity(asdict(cfg)), *UNCOUNTED)
    counted |= {name: values[name] for name in LEAN if values[name] not in ("plain", False)}
    if cfg.parallel.name == "modules" and cfg.measure == "memory":
        counted |= {"parallel": "modules", "processes": cfg.processes}
    if cfg.measure == "overhead":
        del counted["batch_size"]
    if cfg.measure in TIMES:
        counted |= {name: values[name] for name in FAST if values[name] != JOINED.get(name)}
    return identity.digest(counted)


def costly(measure: str) -> set[str]:
    """What of all that can be typed beside a table changes what is measured."""
    if measure == "flops":
        return set()
    batch = {"batch_size", "recipe", "recipe.batch_size", "processes", "sync_batchnorm"}
    optimizer = {"optimizer", "optimizer.name", "optimizer.momentum"}
    always = {"precision", *optimizer, *LEAN} | (set() if measure == "overhead" else batch)
    return always | (set(FAST) if measure in TIMES else set())


def recorded(cfg: Config, root: Path) -> Path:
    """Where a measurement lies; a time's is this machine's, an overhead's also of a batch."""
    name = f"{cfg.measure}-{cost_id(cfg)}"
    if cfg.measure in TIMES:
        device = provenance.device_name(devices.chosen(cfg.device))
        machine = {"device": device, "threads": devices.threads(cfg)}
        machine |= {"batch_size": cfg.batch_size} if cfg.measure == "overhead" else {}
        name = f"{name}-{identity.digest(machine)}"
    return root / "measured" / f"{name}.json"


def measured(cfg: Config) -> dict[str, Any] | None:
    """What is known of a configuration, in OUTPUT_DIR or among the results: rather with a GPU's figures."""
    found = [tracking.read(recorded(cfg, root)) for root in _roots(cfg)]
    known = [record for record in found if record is not None]
    return min(known, key=lambda record: allocated_bytes(record) is None, default=None)


def everywhere(cfg: Config) -> list[dict[str, Any]]:
    """As `measured`, but of a time what is known of every machine, and of an overhead of every batch."""
    if cfg.measure not in TIMES:
        record = measured(cfg)
        return [] if record is None else [record]
    pattern = f"measured/{cfg.measure}-{cost_id(cfg)}-*.json"
    files = {file.name: file for root in reversed(_roots(cfg)) for file in root.glob(pattern)}
    found = (tracking.read(files[name]) for name in sorted(files))
    return [record for record in found if record is not None]


def _roots(cfg: Config) -> list[Path]:
    return [Path(cfg.output_dir), Path(cfg.results_dir)]


def allocated_bytes(record: dict[str, Any]) -> int | None:
    """The CUDA allocator's peak, where memory was measured on a GPU."""
    return record["figures"].get("cuda_allocator_peak_bytes")
