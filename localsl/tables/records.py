"""The records of finished runs, and the table cells to which they belong."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from localsl.execution import files
from localsl.measure.records import measured, recorded
from localsl.runs import identity, stored
from localsl.runs.stored import Run

if TYPE_CHECKING:
    from localsl.config.command import Command

# Fields about a user's machine, which are not part of a result.
PLACES = ("data_dir", "output_dir", "results_dir", "logger")


def read(folder: Path) -> Run | None:
    """Read the run in a folder; None if it is not done, or lacks a file."""
    record = stored.read(folder / "record.json")
    if record is None or record["status"] != "done" or not (folder / "config.yaml").exists():
        return None
    return Run(folder, record)


def under(folder: Path) -> list[Run]:
    """The finished runs in all subfolders of `folder`, ordered by the name of the subfolder."""
    found = (read(path) for path in sorted(folder.glob("*/")))
    return [run for run in found if run is not None]


def of(configs: Iterable[Command]) -> list[Run]:
    """The finished runs of the given configurations, without duplicates."""
    folders = dict.fromkeys(stored.finished(cfg) for cfg in configs if cfg.measure is None)
    found = (read(folder) for folder in folders if folder is not None)
    return [run for run in found if run is not None]


def keep(configs: Iterable[Command]) -> None:
    """Copy the finished runs and measurements of the given configurations to the folder of results."""
    for cfg in configs:
        if cfg.measure is not None:
            found, kept = measured(cfg), recorded(cfg, Path(cfg.results_dir))
            if found is not None and found != stored.read(kept):
                kept.parent.mkdir(parents=True, exist_ok=True)
                files.write(kept, json.dumps(found, indent=2) + "\n")
            continue
        run = read(identity.run_directory(cfg))
        if run is not None:
            folder = identity.kept_directory(cfg)
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("metrics.csv", "record.json"):
                files.write(folder / name, (run.folder / name).read_text())
            values = {key: value for key, value in run.values.items() if key not in PLACES}
            files.write(folder / "config.yaml", OmegaConf.to_yaml(values))


def state(cfg: Command) -> str:
    """The state of a configuration's run: done, running, interrupted, diverged, failed or missing."""
    if cfg.measure is not None:
        return "missing" if measured(cfg) is None else "done"
    if stored.finished(cfg) is not None:
        return "done"
    record = stored.read_record(cfg)
    # A finished run that gets here lacks its required checkpoint.
    if record is None or record["status"] == "done":
        return "missing"
    return stored.present(identity.run_directory(cfg), record)["status"]


def signature(cfg: Command) -> str:
    """The signature of a configuration's run; see `Run.signature`."""
    return identity.signature(asdict(cfg))
