"""What each kind of measurement (`measure=`) finds of a configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from localsl.config.building import build_network
from localsl.core.network import count_parameters
from localsl.data import sources
from localsl.execution import devices
from localsl.measure.flops import flops
from localsl.measure.footprint import Allocated, Footprint, allocated, footprint
from localsl.measure.records import FAST
from localsl.measure.speed import SCOPE, Speed, quartiles, speed
from localsl.runs.display import mebibytes
from localsl.runs.staging import balance_of

if TYPE_CHECKING:
    from localsl.config.schema import Config


@dataclass(frozen=True)
class Measurement:
    """What a measurement found.

    Attributes:
        scope: what the figures describe, in words.
        figures: values by names that end with their units.
        told: lines to print, the most important figure last.
        device: the device that the figures depend on.
    """

    scope: str
    figures: dict[str, Any]
    told: list[str]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def memory(cfg: Config) -> Measurement:
    """The peak memory of a training step, by what holds it."""
    if cfg.parallel.name == "modules" and (cfg.processes or 1) > 1:
        return memory_of_stages(cfg)
    cuda = devices.chosen(cfg.device).type == "cuda"
    return memory_of(cfg, footprint(cfg), allocated(cfg) if cuda else None)


def memory_of(cfg: Config, found: Footprint, on_device: Allocated | None) -> Measurement:
    """The peak of a traced training step, with the CUDA allocator's peak if it is known."""
    parts = {name: size for name, size in asdict(found).items() if name != "where"}
    image = 3 * cfg.dataset.image_size**2 + 8  # uint8 pixels and an int64 class
    resident = 0 if cfg.dataset.crop == "resized" else sources.training_images(cfg.dataset) * image
    figures = {f"{name}_bytes": size for name, size in parts.items()}
    figures |= {"peak_bytes": found.peak, "where": found.where, "resident_data_bytes": resident}
    for name in ("peak", "live"):
        figures[f"cuda_allocator_{name}_bytes"] = on_device and getattr(on_device, name)
    figures["cublas_workspace_bytes"] = on_device and on_device.cublas
    told = [f"{name:<10} {mebibytes(size):>14}" for name, size in parts.items()]
    told.append(f"the peak is in {found.where}; the training images take another {mebibytes(resident)}")
    if on_device is not None:
        told.append(
            f"peak of the CUDA allocator: {mebibytes(on_device.peak)}, tensors: {mebibytes(on_device.live)}; "
            f"cuBLAS's workspace of {mebibytes(on_device.cublas)} is not included"
        )
    scope = "live bytes of the second training step, without workspaces, allocator rounding and the data set"
    peak = f"peak {mebibytes(found.peak)} ({found.peak / 1e9:.2f} GB in the papers' units of 10^9 bytes)"
    return Measurement(scope, figures, [*told, peak], devices.chosen(cfg.device))


def memory_of_stages(cfg: Config) -> Measurement:
    """The peak of each process that holds some of the modules; the figures are those of the largest."""
    network = build_network(cfg)
    devices.place(network, cfg, devices.chosen(cfg.device))
    stages = balance_of(cfg, network).stages
    found = [footprint(cfg, stage) for stage in stages]
    most = max(range(len(found)), key=lambda index: found[index].peak)
    largest = memory_of(cfg, found[most], None)
    peaks = [
        f"process {index}, modules {stage.start} to {stage.stop - 1}: peak {mebibytes(one.peak)}"
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
    """Times of steps that were timed, and their ratio to backpropagation's."""
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
    """The modelled throughput of several devices, by how they share a step's work."""
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
