"""Records of finished runs, and which cell of a table each belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from localsl.measure.records import measured, recorded
from localsl.runs import identity, tracking

if TYPE_CHECKING:
    from localsl.config.command import Command

# Of one user's machine, and no part of a result.
PLACES = ("data_dir", "output_dir", "results_dir", "logger")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where its files are.
        record: record.json.
        values: config.yaml.
    """

    folder: Path
    record: dict[str, Any] = field(repr=False)
    values: dict[str, Any] = field(repr=False)

    @cached_property
    def signature(self) -> str:
        """What it trained, however long: as `identity.signature`."""
        return identity.signature(self.values)

    @cached_property
    def setting(self) -> tuple[tuple[str, str], ...]:
        """How long and on what: equal for runs whose figures may share a cell."""
        images = self.record["images"]
        told = identity.setting(self.values) | {"train": images["train"], "test": images["test"]}
        return tuple(sorted((name, str(value)) for name, value in told.items()))


def read(folder: Path) -> Run | None:
    """The run of a folder if it is done and whole."""
    record = tracking.read(folder / "record.json")
    if record is None or record["status"] != "done" or not (folder / "config.yaml").exists():
        return None
    values = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert isinstance(values, dict)
    return Run(folder, record, values)  # pyright: ignore[reportArgumentType]


def under(folder: Path) -> list[Run]:
    """The runs of all folders right below, by name."""
    found = (read(path) for path in sorted(folder.glob("*/")))
    return [run for run in found if run is not None]


def of(configs: Iterable[Command]) -> list[Run]:
    """The finished runs of these configurations, each once."""
    folders = dict.fromkeys(tracking.finished(cfg) for cfg in configs if cfg.measure is None)
    found = (read(folder) for folder in folders if folder is not None)
    return [run for run in found if run is not None]


def keep(configs: Iterable[Command]) -> None:
    """Copy the finished runs and measurements of these configurations to where results are kept."""
    for cfg in configs:
        if cfg.measure is not None:
            found, kept = measured(cfg), recorded(cfg, Path(cfg.results_dir))
            if found is not None and found != tracking.read(kept):
                kept.parent.mkdir(parents=True, exist_ok=True)
                tracking.write_atomically(kept, json.dumps(found, indent=2) + "\n")
            continue
        run = read(identity.run_directory(cfg))
        if run is not None:
            folder = identity.kept_directory(cfg)
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("metrics.csv", "record.json"):
                tracking.write_atomically(folder / name, (run.folder / name).read_text())
            values = {key: value for key, value in run.values.items() if key not in PLACES}
            tracking.write_atomically(folder / "config.yaml", OmegaConf.to_yaml(values))


def state(cfg: Command) -> str:
    """Of a configuration's run: done, running, interrupted, diverged, failed or missing."""
    if cfg.measure is not None:
        return "missing" if measured(cfg) is None else "done"
    if tracking.finished(cfg) is not None:
        return "done"
    record = tracking.read_record(cfg)
    if record is None or record["status"] == "done":  # done without the checkpoint that is asked for
        return "missing"
    return tracking.present(identity.run_directory(cfg), record)["status"]


def signature(cfg: Command) -> str:
    """The signature that a configuration's run will have."""
    return identity.signature(asdict(cfg))
