"""`show=bench`: prints measured speeds in one table, and writes them to RESULTS_DIR/bench, one file per device."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localsl.execution import files
from localsl.runs import display, stored

if TYPE_CHECKING:
    from localsl.config.command import Command

HOW = ("compile", "cuda_graph", "deterministic")
KEYS = ("method", "aux", "depth", "backbone", "K", "image_size", "batch_size", "precision")


def bench(cfg: Command) -> str:
    """Write the speeds measured in `cfg.output_dir`; return their table and the names of the files."""
    found = [stored.read(file) for file in (Path(cfg.output_dir) / "measured").glob("speed-*.json")]
    records = sorted((r for r in found if r is not None), key=_order)
    if not records:
        return f"{cfg.output_dir} has no measured speeds: type -m measure=speed method=bp,dgl"
    lines = [display.table([_line(record) for record in records]), ""]
    for device in dict.fromkeys(record["device"] for record in records):
        file = Path(cfg.results_dir) / "bench" / f"{slug(device)}.csv"
        _write(file, [_row(record) for record in records if record["device"] == device])
        lines.append(f"{device}: {file}")
    return "\n".join([*lines, f"times: {records[0]['scope']}"])


def slug(device: str) -> str:
    """A device's name in a form for file names, such as nvidia-h100-80gb-hbm3."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", device.lower())).strip("-")


def _order(record: dict[str, Any]) -> tuple:
    keys = ("device", "backbone", "image_size", "K", "batch_size", "precision", "threads")
    return *(record[key] for key in keys), record["figures"]["ratio_to_bp"]


def _line(record: dict[str, Any]) -> dict[str, Any]:
    figures = record["figures"]
    return {
        "method": record["method"],
        "d": record["depth"] or "",
        "backbone": record["backbone"],
        "K": record["K"],
        "batch": record["batch_size"],
        "precision": record["precision"] + (" without TF32" if record["tf32"] is False else ""),
        "how": " ".join(name for name in HOW if figures.get(name)) or "eager",
        "threads": record["threads"],
        "ms a step": f"{figures['ms_median']:.1f}",
        "quartiles": f"{figures['ms_q1']:.1f} to {figures['ms_q3']:.1f}",
        "steps": figures["steps"],
        "images/s": round(figures["images_per_s"]),
        "times bp": f"{figures['ratio_to_bp']:.2f}",
    }


def _row(record: dict[str, Any]) -> dict[str, Any]:
    row = {key: record[key] for key in KEYS} | record["figures"]
    row |= {key: record[key] for key in ("device", "threads", "tf32")} | record["versions"]
    return row | {"commit": record["commit"], "scope": record["scope"]}


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_csv(file, rows)
