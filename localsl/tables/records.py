"""The records of finished runs, and the table cells to which they belong."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from localsl.execution import files
from localsl.measure.records import measured, recorded
from localsl.runs import identity, tracking

if TYPE_CHECKING:
    from localsl.config.command import Command

# Fields about a user's machine, which are not part of a result.
PLACES = ("data_dir", "output_dir", "results_dir", "logger")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: the folder of its files.
        record: the contents of record.json.
        values: the contents of config.yaml.
    """

    folder: Path
    record: dict[str, Any] = field(repr=False)
    values: dict[str, Any] = field(repr=False)

    @cached_property
    def signature(self) -> str:
        """A digest of what was trained, without seed and setting; see `identity.signature`."""
        return identity.signature(self.values)

    @cached_property
    def setting(self) -> tuple[tuple[str, str], ...]:
        """The training setting and numbers of images, equal for runs whose figures may be averaged in a cell."""
        images = self.record["images"]
        setting = identity.setting(self.values) | {"train": images["train"], "test": images["test"]}
        return tuple(sorted((name, str(value)) for name, value in setting.items()))


def read(folder: Path) -> Run | None:
    """Read the run in a folder; None if it is not done, or lacks a file."""
    record = tracking.read(folder / "record.json")
    if record is None or record["status"] != "done" or not (folder / "config.yaml").exists():
        return None
    values = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert isinstance(values, dict)
    return Run(folder, record, values)  # pyright: ignore[reportArgumentType]


def under(folder: Path) -> list[Run]:
    """The finished runs in all subfolders of `folder`, ordered by the name of the subfolder."""
    found = (read(path) for path in sorted(folder.glob("*/")))
    return [run for run in found if run is not None]


def of(configs: Iterable[Command]) -> list[Run]:
    """The finished runs of the given configurations, without duplicates."""
    folders = dict.fromkeys(tracking.finished(cfg) for cfg in configs if cfg.measure is None)
    found = (read(folder) for folder in folders if folder is not None)
    return [run for run in found if run is not None]


def keep(configs: Iterable[Command]) -> None:
    """Copy the finished runs and measurements of the given configurations to the folder of results."""
    for cfg in configs:
        if cfg.measure is not None:
            found, kept = measured(cfg), recorded(cfg, Path(cfg.results_dir))
            if found is not None and found != tracking.read(kept):
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
    if tracking.finished(cfg) is not None:
        return "done"
    record = tracking.read_record(cfg)
    # A finished run that gets here lacks its required checkpoint.
    if record is None or record["status"] == "done":
        return "missing"
    return tracking.present(identity.run_directory(cfg), record)["status"]


def signature(cfg: Command) -> str:
    """The signature of a configuration's run; see `Run.signature`."""
    return identity.signature(asdict(cfg))
