"""`measure=`: what a configuration costs, measured and recorded in place of a training run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from localsl.config.building import build_network
from localsl.core.network import count_parameters
from localsl.data import sources
from localsl.execution import devices
from localsl.measure.flops import flops
from localsl.measure.footprint import Allocated, Footprint, allocated, footprint
from localsl.measure.records import FAST, allocated_bytes, cost_id, measured, recorded
from localsl.measure.speed import SCOPE, Speed, quartiles, speed
from localsl.runs import display, provenance, tracking
from localsl.runs.staging import balance_of

if TYPE_CHECKING:
    from localsl.config.command import Command
    from localsl.config.schema import Config

GIB = 2**30


@dataclass(frozen=True)
class Measurement:
    """What a measurement found.

    Attributes:
        scope: what the figures are of, in words.
        figures: by name with its unit.
        told: lines to print, the figure that matters last.
        device: that they depend on.
    """

    scope: str
    figures: dict[str, Any]
    told: list[str]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def memory(cfg: Config) -> Measurement:
    """The peak of a training step, and what it is made of."""
    if cfg.parallel.name == "modules" and (cfg.processes or 1) > 1:
        return memory_of_stages(cfg)
    cuda = devices.chosen(cfg.device).type == "cuda"
    return memory_of(cfg, footprint(cfg), allocated(cfg) if cuda else None)


def memory_of(cfg: Config, found: Footprint, on_device: Allocated | None) -> Measurement:
    """The same of a step that was traced, with the CUDA allocator's peak if it is known."""
    parts = {name: size for name, size in asdict(found).items() if name != "where"}
    image = 3 * cfg.dataset.image_size**2 + 8  # uint8 pixels and an int64 class
    resident = 0 if cfg.dataset.crop == "resized" else sources.training_images(cfg.dataset) * image
    figures = {f"{name}_bytes": size for name, size in parts.items()}
    figures |= {"peak_bytes": found.peak, "where": found.where, "resident_data_bytes": resident}
    for name in ("peak", "live"):
        figures[f"cuda_allocator_{name}_bytes"] = on_device and getattr(on_device, name)
    figures["cublas_workspace_bytes"] = on_device and on_device.cublas
    told = [f"{name:<10} {size / 2**20:10.1f} MiB" for name, size in parts.items()]
    told.append(f"the peak is in {found.where}; the training images, apart, are {resident / 2**20:.1f} MiB")
    if on_device is not None:
        told.append(f"CUDA allocator's peak of such a step: {on_device.peak / GIB:.2f} GiB, of tensors alone")
        told[-1] += f" {on_device.live / GIB:.2f}; cuBLAS's {on_device.cublas / 2**20:.0f} MiB are not in it"
    scope = "live bytes of the second training step, without workspaces, allocator rounding and the data set"
    return Measurement(scope, figures, [*told, f"peak {found.peak / GIB:.2f} GiB"], devices.chosen(cfg.device))


def memory_of_stages(cfg: Config) -> Measurement:
    """The same of each process that holds some of the modules; the figures are those of the one that needs most."""
    network = build_network(cfg)
    devices.place(network, cfg, devices.chosen(cfg.device))
    stages = balance_of(cfg, network).stages
    found = [footprint(cfg, stage) for stage in stages]
    most = max(range(len(found)), key=lambda index: found[index].peak)
    largest = memory_of(cfg, found[most], None)
    peaks = [
        f"process {index}, modules {stage.start} to {stage.stop - 1}: peak {one.peak / GIB:.2f} GiB"
        for index, (stage, one) in enumerate(zip(stages, found, strict=True))
    ]
    figures = largest.figures | {"stage_peaks_bytes": [one.peak for one in found]}
    return Measurement(largest.scope, figures, [*peaks, f"of process {most}:", *largest.told], largest.device)


def operations(cfg: Config) -> Measurement:
    """Floating-point operations and parameters."""
    found = flops(cfg)
    network = build_network(cfg)
    main, whole = count_parameters(network.backbone), count_parameters(network)
    figures = asdict(found) | {"step_auxiliary": found.step_auxiliary}
    figures |= {"parameters": main, "parameters_auxiliary": whole - main}
    told = [
        f"parameters           {main:>15,} in the network, {whole - main:,} in auxiliary networks",
        f"evaluation           {found.forward:>15,} operations per image",
        f"training step        {found.step:>15,} operations per image",
        f"  the network        {found.step_main:>15,}",
        f"  auxiliary networks {found.step_auxiliary:>15,}",
        f"as the papers count  {found.papers / 1e9:.2f} G",
    ]
    scope = (
        "multiplications and additions, one each, of convolutions and matrix products; papers: multiply-adds"
    )
    return Measurement(scope, figures, told)


def step_time(cfg: Config) -> Measurement:
    """How long a training step takes, and how that compares with backpropagation."""
    return time_of(cfg, speed(cfg))


def time_of(cfg: Config, found: Speed) -> Measurement:
    """The same of steps that were timed."""
    steps, bp = quartiles(found.steps), quartiles(found.bp)
    rate = 1e3 * cfg.batch_size / steps[1]
    figures = {"ms_median": steps[1], "ms_q1": steps[0], "ms_q3": steps[2], "steps": len(found.steps)}
    figures |= {"images_per_s": rate, "ratio_to_bp": found.ratio, "bp_ms_median": bp[1]}
    first, warm_up = found.warm_up[0], sum(found.warm_up)
    figures |= {"first_step_ms": first, "warm_up_ms": warm_up, "warm_up_steps": len(found.warm_up)}
    figures |= {name: getattr(cfg, name) for name in FAST}
    figures |= {f"compiled_{name}": value for name, value in found.compiled.items()}
    told = [
        f"warm-up: {len(found.warm_up)} steps in {warm_up:.1f} ms, the first in {first:.1f}",
        f"backpropagation in between: {_milliseconds(bp)} of {len(found.bp)} steps",
        f"{_milliseconds(steps)} of {len(found.steps)} steps, {rate:.0f} images/s, "
        f"{found.ratio:.2f} times backpropagation's",
    ]
    return Measurement(SCOPE, figures, told, devices.chosen(cfg.device))


def several_devices(cfg: Config) -> Measurement:
    """What several devices could make of a step, by how they share the work."""
    from localsl.measure import pipeline

    figures, told, device = pipeline.modelled(cfg)
    return Measurement(pipeline.SCOPE, figures, told, device)


def _milliseconds(quarters: list[float]) -> str:
    return f"{quarters[1]:.1f} ms a step, quartiles {quarters[0]:.1f} and {quarters[2]:.1f}"


MEASURES: dict[str, Callable[[Config], Measurement]] = {
    "memory": memory,
    "flops": operations,
    "speed": step_time,
    "overhead": step_time,
    "pipeline": several_devices,
}
ANEW = (
    "speed",
    "pipeline",
)  # whatever is recorded; an overhead is what a table asks for, and known once it is measured


def run(cfg: Command) -> dict[str, Any]:
    """Measure, record in OUTPUT_DIR/measured, and print; what is known is only told again, but for a speed.

    Memory that was measured without a GPU is measured again where there is one.
    """
    assert cfg.measure is not None
    devices.use_threads(cfg)
    file = recorded(cfg, Path(cfg.output_dir))
    record = measured(cfg)
    lacks = cfg.measure == "memory" and devices.chosen(cfg.device).type == "cuda"
    if record is None or cfg.measure in ANEW or (lacks and allocated_bytes(record) is None):
        found = MEASURES[cfg.measure](cfg)
        record = keep(cfg, found)
    elif record != tracking.read(file):  # known among the results only
        _write(cfg, record)
    print(f"{cfg.method.name} on {cfg.backbone.name}, K={cfg.K}, batch {cfg.batch_size}, {cfg.precision}")
    print(f"{record['scope']}; {file.parent / cfg.measure}.csv")
    if cfg.measure == "memory" and (cfg.compile or cfg.cuda_graph):
        print("note: of an eager step; what a compiled or recorded one needs is not measured")
    if cfg.measure == "memory" and cfg.replicas > 1:
        print(f"of one of {cfg.replicas} processes, {cfg.batch_size // cfg.replicas} images")
    print("\n".join(record["told"]))
    return record


def compared(configs: Sequence[Command]) -> str:
    """The figures that matter of several configurations' measurements, side by side; empty if none is known."""
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
    """The record of a measurement, written to OUTPUT_DIR/measured."""
    record = {"status": "done", "measure": cfg.measure, "signature": cost_id(cfg), **_what(cfg)}
    record |= {"scope": found.scope, "figures": found.figures, "told": found.told}
    record |= provenance.environment(found.device)
    _write(cfg, record)
    return record


def _write(cfg: Command, record: dict[str, Any]) -> None:
    assert cfg.measure is not None
    file = recorded(cfg, Path(cfg.output_dir))
    file.parent.mkdir(parents=True, exist_ok=True)
    tracking.write_atomically(file, json.dumps(record, indent=2) + "\n")
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
    """All measurements of a kind as FOLDER/<kind>.csv."""
    records = [tracking.read(file) for file in sorted(folder.glob(f"{measure}-*.json"))]
    rows = [
        {k: v for k, v in r.items() if k not in ("figures", "told", "status", "versions")} | r["figures"]
        for r in records
        if r is not None
    ]
    tracking.write_csv(folder / f"{measure}.csv", rows)
