"""Stored runs: reading their folders, finding them, and telling them apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from localsl.runs import identity, lock
from localsl.runs.checkpoint import Checkpoints

if TYPE_CHECKING:
    from localsl.config.schema import Config


@dataclass(frozen=True)
class Run:
    """A run in a folder.

    Attributes:
        folder: the folder of its files.
        record: the contents of record.json.
    """

    folder: Path
    record: dict[str, Any] = field(repr=False)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The contents of config.yaml.

        Raises:
            OSError: if it cannot be read.
            yaml.YAMLError: if it is not YAML.
        """
        # Read with libyaml if available: OmegaConf takes 20 ms per file.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return yaml.load((self.folder / "config.yaml").read_text(), loader)

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


def read_record(cfg: Config) -> dict[str, Any] | None:
    """The record of a configuration's run; None if there is none or it cannot be read."""
    return read(identity.run_directory(cfg) / "record.json")


def read(file: Path) -> dict[str, Any] | None:
    """Read a record; None if the file does not exist or is incomplete."""
    try:
        record = json.loads(file.read_text())
        return record if "status" in record else None
    except (OSError, ValueError, TypeError):
        return None


def present(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """A run's record with its actual status: one that says "running" while no process runs it was interrupted."""
    gone = record["status"] == "running" and not lock.is_held(folder)
    return record | {"status": "interrupted"} if gone else record


def finished(cfg: Config) -> Path | None:
    """The folder of a configuration's finished run, its own or the one among the results; None if there is none.

    With checkpoint.required=true a run is finished only if it has a checkpoint, which results do not keep.
    """
    if cfg.checkpoint.required and not Checkpoints(cfg).has_intact:
        return None
    own = identity.run_directory(cfg)
    if _is_done(own):
        return own
    kept = identity.kept_directory(cfg)
    return kept if not cfg.checkpoint.required and _is_done(kept) else None


def _is_done(folder: Path) -> bool:
    record = read(folder / "record.json")
    return record is not None and record["status"] == "done"


def planned_runs(configs: Sequence[Config]) -> list[Run]:
    """The run of each configuration, with the status "not run" if there is none."""
    runs = {}
    for cfg in configs:
        absent = {"status": "not run", "method": cfg.method.name, "dataset": cfg.dataset.name}
        absent |= {"backbone": cfg.backbone.name, "seed": cfg.seed, "id": identity.run_id(cfg)}
        folder = finished(cfg) or identity.run_directory(cfg)
        record = read(folder / "record.json")
        runs[folder] = Run(folder, present(folder, record) if record else absent)
    return list(runs.values())


def found_runs(output_dir: str) -> list[Run]:
    """All runs in a folder, in the order in which they ended."""
    files = sorted(Path(output_dir).rglob("record.json"), key=lambda file: file.parent.stat().st_ctime)
    records = [(file.parent, read(file)) for file in files]
    return [Run(folder, present(folder, record)) for folder, record in records if record is not None]


def distinctions(runs: Sequence[Run], configs: Sequence[Config] = ()) -> list[dict[str, str]]:
    """For each run, the settings in which runs with the same rule, data set, backbone and seed differ.

    Args:
        configs: the configurations of the runs, if known; others are read from their folders.
    """
    known = {identity.run_id(cfg): asdict(cfg) for cfg in configs}
    alike: dict[tuple, list[int]] = {}
    for index, run in enumerate(runs):
        key = tuple(run.record.get(name) for name in ("method", "dataset", "backbone", "seed"))
        alike.setdefault(key, []).append(index)
    found: dict[int, dict[str, Any]] = {}
    names: set[str] = set()
    for group in (group for group in alike.values() if len(group) > 1):
        for index in group:
            values = known.get(runs[index].record["id"]) or _valid_values(runs[index])
            if values is not None:
                found[index] = values
        names.update(identity.distinguishing([found[index] for index in group if index in found]))
    every = [dict(identity.leaves(found.get(index, {}))) for index in range(len(runs))]
    return [{name: _shortened(values.get(name, "")) for name in sorted(names)} for values in every]


def _valid_values(run: Run) -> dict[str, Any] | None:
    """The contents of config.yaml; None if it is missing, unreadable or of another version."""
    try:
        identity.identity(run.values)
    except (OSError, LookupError, TypeError, ValueError, yaml.YAMLError):
        return None
    return run.values


def _shortened(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 30 else f"{text[:27]}..."
