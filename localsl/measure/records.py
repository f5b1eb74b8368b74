"""The files of measurements, and which measurement belongs to a configuration."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localsl.config.fields import effect, top_level
from localsl.core.settings import Affects
from localsl.execution import devices
from localsl.runs import identity, provenance, stored

if TYPE_CHECKING:
    from localsl.config.command import Command

# What decides the batch of a process; a recipe stands for a batch size.
BATCH = ("batch_size", "recipe", "recipe.batch_size", "processes", "sync_batchnorm")

# Fields that change the time of a step and nothing else.
FAST = [name for name in top_level() if effect(name).affects == Affects.TIME]

TIMES = ("speed", "overhead", "pipeline")  # each machine has its own


def cost_id(cfg: Command) -> str:
    """A digest of the values that affect what is measured.

    An overhead is a ratio, so that one with another batch size belongs to the same cell.
    """
    counted = identity.affecting(asdict(cfg), Affects.TIME if cfg.measure in TIMES else Affects.MEMORY)
    if cfg.parallel.name == "modules" and cfg.measure == "memory":
        counted |= {"parallel": "modules", "processes": cfg.processes, "balance": cfg.parallel.balance}
    if cfg.measure == "pipeline":
        counted |= {"bandwidth": cfg.parallel.bandwidth}
    if cfg.measure == "overhead":
        del counted["batch_size"]
    return identity.digest(counted)


def costly(name: str, measure: str) -> bool:
    """Whether setting this field or group for a whole table changes what is measured."""
    if measure == "flops":
        return False
    if name in BATCH:
        return measure != "overhead"
    found = effect(name)
    return found.keeps_table and bool(found.affects & (Affects.TIME if measure in TIMES else Affects.MEMORY))


def recorded(cfg: Command, root: Path) -> Path:
    """The file of a measurement: one per machine for times, and per batch size too for overheads."""
    name = f"{cfg.measure}-{cost_id(cfg)}"
    if cfg.measure in TIMES:
        device = provenance.device_name(devices.chosen(cfg.device))
        machine = {"device": device, "threads": devices.threads(cfg)}
        machine |= {"batch_size": cfg.batch_size} if cfg.measure == "overhead" else {}
        name = f"{name}-{identity.digest(machine)}"
    return root / "measured" / f"{name}.json"


def measured(cfg: Command) -> dict[str, Any] | None:
    """The measurement of a configuration in OUTPUT_DIR or among the results, preferably with a GPU's figures."""
    found = [stored.read(recorded(cfg, root)) for root in _roots(cfg)]
    known = [record for record in found if record is not None]
    return min(known, key=lambda record: allocated_bytes(record) is None, default=None)


def everywhere(cfg: Command) -> list[dict[str, Any]]:
    """The measurements of a configuration: for times those of every machine and batch size, else at most one."""
    if cfg.measure not in TIMES:
        record = measured(cfg)
        return [] if record is None else [record]
    pattern = f"measured/{cfg.measure}-{cost_id(cfg)}-*.json"
    files = {file.name: file for root in reversed(_roots(cfg)) for file in root.glob(pattern)}
    found = (stored.read(files[name]) for name in sorted(files))
    return [record for record in found if record is not None]


def _roots(cfg: Command) -> list[Path]:
    return [Path(cfg.output_dir), Path(cfg.results_dir)]


def allocated_bytes(record: dict[str, Any]) -> int | None:
    """The CUDA allocator's peak if memory was measured on a GPU, else None."""
    return record["figures"].get("cuda_allocator_peak_bytes")
