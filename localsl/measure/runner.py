"""`measure=`: measures what a configuration costs, records it and prints it, in place of a training run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localsl.config.building import build_network
from localsl.execution import devices, files
from localsl.measure.kinds import MEASURES, Measurement
from localsl.measure.records import allocated_bytes, cost_id, measured, recorded
from localsl.runs import display, provenance, stored

if TYPE_CHECKING:
    from localsl.config.command import Command

# Measured again each time it is asked for. An overhead is not: a table asks for it, and has it once it is measured.
REPEATED = ("speed", "pipeline")


def run(cfg: Command) -> dict[str, Any]:
    """Measure, record in OUTPUT_DIR/measured, and print.

    A recorded measurement is printed and not repeated, with two exceptions: speeds, and memory that was measured
    without a GPU where there is one now.
    """
    assert cfg.measure is not None
    devices.use_threads(cfg)
    file = recorded(cfg, Path(cfg.output_dir))
    record = measured(cfg)
    on_gpu = cfg.measure == "memory" and devices.chosen(cfg.device).type == "cuda"
    if record is None or cfg.measure in REPEATED or (on_gpu and allocated_bytes(record) is None):
        record = keep(cfg, MEASURES[cfg.measure](cfg))
    elif record != stored.read(file):  # recorded among the results only
        _write(cfg, record)
    print(f"{cfg.method.name} on {cfg.backbone.name}, K={cfg.K}, batch {cfg.batch_size}, {cfg.precision}")
    print(f"{record['scope']}; {file.parent / cfg.measure}.csv")
    if cfg.measure == "memory" and (cfg.compile or cfg.cuda_graph):
        print("note: this is the peak of an eager step; that of a compiled or captured step is not measured")
    if cfg.measure == "memory" and cfg.replicas > 1:
        print(f"for one of {cfg.replicas} processes, with {cfg.batch_size // cfg.replicas} images")
    print("\n".join(record["told"]))
    return record


def compared(configs: Sequence[Command]) -> str:
    """A table of several configurations' measurements, one a row; empty if fewer than two are recorded."""
    rows = []
    for cfg in configs:
        record = measured(cfg)
        if record is None or cfg.measure not in COMPARED:
            continue
        figures = COMPARED[cfg.measure](record["figures"])
        of = {"method": cfg.method.name, "aux": record["aux"], "d": record["depth"] or ""}
        of |= {"backbone": record["backbone"], "K": record["K"], "batch": record["batch_size"]}
        rows.append(of | {"precision": record["precision"]} | figures)
    return f"\n{display.table(rows)}\n" if len(rows) > 1 else ""


def _compared_memory(figures: dict[str, Any]) -> dict[str, Any]:
    parts = ("parameters", "gradients", "optimizer", "saved", "transient")
    told = {f"{part} MiB": f"{figures[f'{part}_bytes'] / 2**20:.1f}" for part in parts}
    return told | {"peak MiB": f"{figures['peak_bytes'] / 2**20:.1f}", "in": figures["where"]}


def _compared_operations(figures: dict[str, Any]) -> dict[str, Any]:
    named = {"evaluation": "forward", "training step": "step", "auxiliary networks": "step_auxiliary"}
    told = {f"{words}, 10^6": f"{figures[name] / 1e6:.1f}" for words, name in named.items()}
    return {"parameters": figures["parameters"], "auxiliary": figures["parameters_auxiliary"]} | told


def _compared_times(figures: dict[str, Any]) -> dict[str, Any]:
    told = {"ms a step": f"{figures['ms_median']:.1f}", "images/s": round(figures["images_per_s"])}
    return told | {"times bp": f"{figures['ratio_to_bp']:.2f}"}


COMPARED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "memory": _compared_memory,
    "flops": _compared_operations,
    "speed": _compared_times,
    "overhead": _compared_times,
}


def keep(cfg: Command, found: Measurement) -> dict[str, Any]:
    """Write a measurement to OUTPUT_DIR/measured, and return its record."""
    record = {"status": "done", "measure": cfg.measure, "signature": cost_id(cfg), **_what(cfg)}
    record |= {"scope": found.scope, "figures": found.figures, "told": found.told}
    record |= provenance.environment(found.device)
    _write(cfg, record)
    return record


def _write(cfg: Command, record: dict[str, Any]) -> None:
    assert cfg.measure is not None
    file = recorded(cfg, Path(cfg.output_dir))
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write(file, json.dumps(record, indent=2) + "\n")
    _tabulate(file.parent, cfg.measure)


def _what(cfg: Command) -> dict[str, Any]:
    return {
        "method": cfg.method.name,
        "aux": cfg.aux.head,
        "depth": cfg.aux.depth,
        "backbone": cfg.backbone.name,
        "K": cfg.K,
        "modules": len(build_network(cfg).local_modules),
        "image_size": cfg.dataset.image_size,
        "batch_size": cfg.batch_size,
        "processes": cfg.processes,
        "precision": cfg.precision,
        "memory": cfg.memory,
        "per_module": cfg.optimizer.per_module,
    }


def _tabulate(folder: Path, measure: str) -> None:
    """Write FOLDER/<kind>.csv, with a row for each recorded measurement of the kind."""
    records = [stored.read(file) for file in sorted(folder.glob(f"{measure}-*.json"))]
    rows = [
        {k: v for k, v in r.items() if k not in ("figures", "told", "status", "versions")} | r["figures"]
        for r in records
        if r is not None
    ]
    files.write_csv(folder / f"{measure}.csv", rows)
