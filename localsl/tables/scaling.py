"""`show=pipeline`: the models of several devices side by side, and AugLocal's claim for its networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from localsl.analysis.draw import lines, save
from localsl.config import compose
from localsl.config.building import module_operations
from localsl.execution.balance import balanced
from localsl.measure.pipeline import DEVICES
from localsl.runs import tracking

if TYPE_CHECKING:
    from localsl.config.command import Command

WAYS = {"modules": "modules", "data": "data", "bp_data": "bp, data", "bp_pipeline": "bp, GPipe"}

# Networks of AugLocal's Tables 1 to 4 and 13 with the depths there, one module a layer.
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
    """Write RESULTS_DIR/ours/pipeline.csv and .png of all models in `cfg.output_dir`, and auglocal_parallel.csv."""
    found = [tracking.read(file) for file in (Path(cfg.output_dir) / "measured").glob("pipeline-*.json")]
    records = sorted((r for r in found if r is not None), key=lambda r: (r["backbone"], r["method"], r["K"]))
    if not records:
        return f"nothing is modelled in {cfg.output_dir}: type -m measure=pipeline method=dgl,auglocal"
    folder = Path(cfg.results_dir) / "ours"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for record in records for row in _rows(record)]
    tracking.write_csv(folder / "pipeline.csv", rows)
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
    tracking.write_csv(folder / "auglocal_parallel.csv", claims())
    return f"written to {folder / 'pipeline.csv'}, pipeline.png and auglocal_parallel.csv"


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    figures = record["figures"]
    rule = record["method"] + (f" d={record['depth']}" if record["depth"] else "")
    same = {key: record[key] for key in ("method", "aux", "depth", "backbone", "K", "batch_size", "precision")}
    same |= {"device": record["device"], "threads": record["threads"], "commit": record["commit"]}
    same |= {key: figures[key] for key in ("bandwidth", "microbatches", "steps_per_epoch")}
    rows = []
    for way, words in WAYS.items():
        for row in figures["rows"]:
            seconds = row[way]
            told = words if words.startswith("bp") else f"{rule}, {words}"
            rows.append(
                {"label": told, "devices": row["devices"], "speed": round(figures["bp_seconds"] / seconds, 4)}
                | {"seconds": seconds, "limit": row["limit"] if way == "modules" else None}
                | same
            )
    return rows


def claims() -> list[dict[str, Any]]:
    """The slowest module's share of backpropagation's operations, beside AugLocal's d / L (its A.1).

    One module a layer and one device a module; and with fewer devices, the slowest of them.
    """
    rows = []
    for backbone, depths in CLAIMED.items():
        typed = [f"backbone={backbone}", "dataset=cifar10"]
        layers = len(compose([*typed, "method=bp"]).backbone.local_layers())
        whole = sum(module_operations(compose([*typed, "method=bp"])))
        for depth in depths:
            cfg = compose([*typed, "method=auglocal", f"K={layers}", f"aux.depth={depth}"])
            counted = module_operations(cfg)
            cuts = range(1, len(counted))
            row = {"backbone": backbone, "L": layers, "d": depth, "modules": len(counted)}
            row |= {
                "claim_d_over_L": round(depth / layers, 4),
                "slowest_module": round(max(counted) / whole, 4),
            }
            row["one_device"] = round(sum(counted) / whole, 4)
            for devices in (count for count in DEVICES if 1 < count < len(counted)):
                slowest = sum(counted) / balanced(counted, devices, cuts).limit
                row[f"{devices}_devices"] = round(slowest / whole, 4)
            rows.append(row)
    return rows
