"""`analysis=`: analyses trained networks and writes a CSV and a figure, in place of a training run."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from localsl.analysis import findings, runs
from localsl.analysis.kinds import KINDS
from localsl.analysis.runs import Trained
from localsl.execution import devices, files
from localsl.runs import identity

if TYPE_CHECKING:
    from localsl.config.command import AnalysisConfig, Command


def run(cfg: Command) -> dict[str, Any]:
    """Analyse the runs of `cfg.runs`; print the findings and the paths of the CSV and the figure.

    Raises:
        ConfigError: if a run is not available, or the runs cannot be compared.
    """
    devices.use_threads(cfg)
    given = runs.found(cfg.runs, cfg)
    stem = Path(cfg.analysis.output) if cfg.analysis.output else _stem(cfg, given)
    written = analyse(stem, cfg.analysis, _title(cfg.analysis), [given], devices.chosen(cfg.device))
    with written[0].open(newline="") as file:
        told = findings.of(cfg.analysis.kind, list(csv.DictReader(file)))
    print("\n".join([*told, *(f"written to {file}" for file in written)]))
    return {"status": "done"}


def analyse(
    stem: Path, settings: AnalysisConfig, title: str, panels: Sequence[Sequence[Trained]], device: torch.device
) -> list[Path]:
    """Write STEM.csv and STEM.png, with a panel of axes for each group of runs; return the two paths.

    Raises:
        ConfigError: if the runs of a panel cannot be compared, or one lacks what the analysis needs.
    """
    for panel in panels:
        runs.check_comparable(panel)
    devices.prepare(device)
    found = [KINDS[settings.kind](panel, settings, device) for panel in panels]
    stem.parent.mkdir(parents=True, exist_ok=True)
    table, picture = (stem.with_name(f"{stem.name}.{ending}") for ending in ("csv", "png"))
    files.write_csv(table, [row for rows in found for row in rows])
    from localsl.analysis import draw

    draw.draw(picture, settings.kind, title, found)
    return [table, picture]


def _stem(cfg: Command, given: Sequence[Trained]) -> Path:
    ids = [run.record["id"] for run in given]
    name = f"{cfg.analysis.kind}-{identity.digest({'runs': ids, 'analysis': asdict(cfg.analysis)})}"
    return Path(cfg.output_dir) / "analysis" / name


def _title(settings: AnalysisConfig) -> str:
    told = {
        "cka": "Similarity to backpropagation",
        "probes": "Linear probes",
        "feature_maps": "Feature maps, mean over channels",
        "convergence": "Convergence",
        "pyramid": "AugLocal's pyramid",
        "tradeoff": "Error against memory",
        "accuracy": "Test accuracy",
        "grid": f"Accuracy by {settings.across}",
    }
    return told[settings.kind]
