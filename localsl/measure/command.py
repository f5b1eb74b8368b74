"""`measure=`: what a configuration costs, measured and recorded in place of a training run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from localsl import tracking
from localsl.data import sources
from localsl.measure.flops import flops
from localsl.measure.footprint import allocated, footprint
from localsl.measure.records import allocated_bytes, measured, recorded, signature
from localsl.network import build_network, count_parameters

if TYPE_CHECKING:
    from localsl.settings import Config

GIB = 2**30


@dataclass(frozen=True)
class Measurement:
    """What a measurement found.

    Attributes:
        scope: what the figures are of, in words.
        figures: by name with its unit.
        told: lines to print, the figure that matters last.
    """

    scope: str
    figures: dict[str, Any]
    told: list[str]


def memory(cfg: Config) -> Measurement:
    """The peak of a training step, and what it is made of."""
    found = footprint(cfg)
    parts = {name: size for name, size in asdict(found).items() if name != "where"}
    image = 3 * cfg.dataset.image_size**2 + 8  # uint8 pixels and an int64 class
    resident = sources.training_images(cfg.dataset) * image
    on_device = allocated(cfg) if _device(cfg).type == "cuda" else None
    figures = {f"{name}_bytes": size for name, size in parts.items()}
    figures |= {"peak_bytes": found.peak, "where": found.where, "resident_data_bytes": resident}
    figures["cuda_allocator_peak_bytes"] = on_device
    told = [f"{name:<10} {size / 2**20:10.1f} MiB" for name, size in parts.items()]
    told.append(f"the peak is in {found.where}; the training images, apart, are {resident / 2**20:.1f} MiB")
    if on_device is not None:
        told.append(f"CUDA allocator's peak of such a step: {on_device / GIB:.2f} GiB")
    scope = "live bytes of the second training step, without workspaces, allocator rounding and the data set"
    return Measurement(scope, figures, [*told, f"peak {found.peak / GIB:.2f} GiB"])


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


MEASURES: dict[str, Callable[[Config], Measurement]] = {"memory": memory, "flops": operations}


def run(cfg: Config) -> dict[str, Any]:
    """Measure, record in OUTPUT_DIR/measured, and print; what is known is only told again.

    Memory that was measured without a GPU is measured again where there is one.
    """
    assert cfg.measure is not None
    file = recorded(cfg, Path(cfg.output_dir))
    record, device = measured(cfg), _device(cfg)
    if record is None or (device.type == "cuda" and allocated_bytes(record) is None):
        found = MEASURES[cfg.measure](cfg)
        record = {"status": "done", "measure": cfg.measure, "signature": signature(cfg), **_what(cfg)}
        record |= {"scope": found.scope, "figures": found.figures, "told": found.told}
        record |= tracking.environment(device)
    if record != tracking.read(file):  # new, or known among the results only
        file.parent.mkdir(parents=True, exist_ok=True)
        tracking.write_atomically(file, json.dumps(record, indent=2) + "\n")
        _tabulate(file.parent, cfg.measure)
    print(f"{cfg.method.name} on {cfg.backbone.name}, K={cfg.K}, batch {cfg.batch_size}, {cfg.precision}")
    print(f"{record['scope']}; {file.parent / cfg.measure}.csv")
    print("\n".join(record["told"]))
    return record


def _device(cfg: Config) -> torch.device:
    """Where a step of real tensors is measured beside the trace; operations are counted without any."""
    on_gpu = cfg.measure == "memory" and cfg.device != "cpu" and torch.cuda.is_available()
    return torch.device(cfg.device if cfg.device != "auto" else "cuda") if on_gpu else torch.device("cpu")


def _what(cfg: Config) -> dict[str, Any]:
    return {
        "method": cfg.method.name,
        "aux": cfg.aux.head,
        "depth": cfg.aux.depth,
        "backbone": cfg.backbone.name,
        "K": cfg.K,
        "modules": len(build_network(cfg).local_modules),
        "image_size": cfg.dataset.image_size,
        "batch_size": cfg.batch_size,
        "precision": cfg.precision,
    }


def _tabulate(folder: Path, measure: str) -> None:
    """All measurements of a kind as FOLDER/<kind>.csv."""
    records = [tracking.read(file) for file in sorted(folder.glob(f"{measure}-*.json"))]
    rows = [
        {k: v for k, v in r.items() if k not in ("figures", "told", "status", "versions")} | r["figures"]
        for r in records
        if r is not None
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(k for row in rows for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    tracking.write_atomically(folder / f"{measure}.csv", text.getvalue())
