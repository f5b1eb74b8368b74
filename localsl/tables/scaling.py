"""`show=pipeline`: modelled speedups on several devices side by side, and AugLocal's claim about its speedup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from localsl.analysis.draw import lines, save
from localsl.config import compose
from localsl.config.building import module_operations
from localsl.execution import files
from localsl.execution.balance import balanced
from localsl.measure.pipeline import DEVICES
from localsl.runs import stored

if TYPE_CHECKING:
    from localsl.config.command import Command

SCHEMES = {"modules": "modules", "data": "data", "bp_data": "bp, data", "bp_pipeline": "bp, GPipe"}

# The networks of AugLocal's Tables 1 to 4 and 13, one layer per module, with their auxiliary depths d.
CLAIMED = {
    "resnet32": (2, 3, 4, 5, 6),
    "resnet110": (2, 3, 4, 5, 6),
    "vgg19": (2, 3, 4, 5, 6),
    "resnet34": (2, 3, 4, 5),
    "resnet101": (2, 3, 4),
    "vgg13": (2, 3, 4),
    "efficientnetb0": (2, 3, 4, 5, 6),
    "mobilenetv2": (2, 3, 4, 5, 6),
    "regnetx_400mf": (2, 3, 4, 5, 6),
}


def show(cfg: Command) -> str:
    """Write RESULTS_DIR/ours/pipeline.csv and .png from all models in `cfg.output_dir`, and auglocal_parallel.csv.

    Returns:
        A message that names the written files.
    """
    found = [stored.read(file) for file in (Path(cfg.output_dir) / "measured").glob("pipeline-*.json")]
    records = sorted((r for r in found if r is not None), key=lambda r: (r["backbone"], r["method"], r["K"]))
    if not records:
        return (
            f"{cfg.output_dir} has no models of several devices: type -m measure=pipeline method=dgl,auglocal"
        )
    folder = Path(cfg.results_dir) / "ours"
    folder.mkdir(parents=True, exist_ok=True)
    references = _finest(records)
    rows = [row for record in records for row in _rows(record, reference=record in references)]
    files.write_csv(folder / "pipeline.csv", rows)
    drawn = [row | {"dataset": f"batch {row['batch_size']}"} for row in rows]
    panels = [
        [row for row in drawn if row["backbone"] == name] for name in dict.fromkeys(r["backbone"] for r in rows)
    ]
    figure = lines(panels, "devices", [("speed", "images a second, backpropagation on one device: 1")])
    save(
        folder / "pipeline.png",
        figure,
        "Devices that share modules, or batches, by a model fed with one device's times",
    )
    files.write_csv(folder / "auglocal_parallel.csv", claims())
    return f"written to {folder / 'pipeline.csv'}, pipeline.png and auglocal_parallel.csv"


def _finest(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each network's records the one with most modules, along which backpropagation is divided most evenly."""
    finest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in sorted(records, key=lambda r: len(r["figures"]["module_seconds"])):
        finest[tuple(record[key] for key in ("backbone", "K", "batch_size", "precision"))] = record
    return list(finest.values())


def _rows(record: dict[str, Any], reference: bool) -> list[dict[str, Any]]:
    """A row for each scheme and number of devices; backpropagation's only if `reference`."""
    figures = record["figures"]
    rule = record["method"] + (f" d={record['depth']}" if record["depth"] else "")
    shared = {
        key: record[key] for key in ("method", "aux", "depth", "backbone", "K", "batch_size", "precision")
    }
    shared |= {"device": record["device"], "threads": record["threads"], "commit": record["commit"]}
    shared |= {key: figures[key] for key in ("bandwidth", "microbatches", "steps_per_epoch")}
    rows = []
    for scheme, words in SCHEMES.items():
        of_bp = scheme.startswith("bp")
        if of_bp and not reference:
            continue
        for row in figures["rows"]:
            seconds = row[scheme]
            label = words if of_bp else f"{rule}, {words}"
            rows.append(
                {"label": label, "devices": row["devices"], "speed": round(figures["bp_seconds"] / seconds, 4)}
                | {"seconds": seconds, "limit": row["limit"] if scheme == "modules" else None}
                | shared
            )
    return rows


def claims() -> list[dict[str, Any]]:
    """AugLocal's claim d / L (its section A.1), beside the slowest module's share of backpropagation's operations.

    Each layer is a module on a device of its own; with fewer devices, it is the share of the slowest device.
    """
    rows = []
    for backbone, depths in CLAIMED.items():
        typed = [f"backbone={backbone}", "dataset=cifar10"]
        layers = len(compose([*typed, "method=bp"]).backbone.local_layers())
        total = sum(module_operations(compose([*typed, "method=bp"])))
        for depth in depths:
            cfg = compose([*typed, "method=auglocal", f"K={layers}", f"aux.depth={depth}"])
            counted = module_operations(cfg)
            cuts = range(1, len(counted))
            row = {"backbone": backbone, "L": layers, "d": depth, "modules": len(counted)}
            row |= {
                "claim_d_over_L": round(depth / layers, 4),
                "slowest_module": round(max(counted) / total, 4),
            }
            row["one_device"] = round(sum(counted) / total, 4)
            for devices in (count for count in DEVICES if 1 < count < len(counted)):
                slowest = sum(counted) / balanced(counted, devices, cuts).limit
                row[f"{devices}_devices"] = round(slowest / total, 4)
            rows.append(row)
    return rows
