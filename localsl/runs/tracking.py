"""What a run leaves behind: its folder with configuration, metrics and record, and W&B."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml
from omegaconf import OmegaConf

from localsl.core.settings import ConfigError, Problem
from localsl.runs import identity, lock
from localsl.runs.checkpoint import Checkpoints

if TYPE_CHECKING:
    from localsl.config.schema import Config


REACHED = 10  # seconds within which a server answers that can be logged to


class Sink(Protocol):
    """Somewhere metrics go."""

    def row(self, row: dict[str, Any]) -> None:
        """Take one epoch's figures."""
        ...

    def close(self, record: dict[str, Any]) -> None:
        """Take the record of a run that ended, well or not."""
        ...


class RunFolder:
    """The files of a run: config.yaml, metrics.csv (a row an epoch) and record.json."""

    def __init__(self, cfg: Config, rows: Sequence[dict[str, Any]] = ()):
        """Of a run that has these rows so far."""
        self.path = identity.run_directory(cfg)
        self._metrics = self.path / "metrics.csv"
        if rows:
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, rows[0])
            writer.writeheader()
            writer.writerows(rows)
            write_atomically(self._metrics, text.getvalue())
        else:
            self._metrics.unlink(missing_ok=True)
        write_atomically(self.path / "config.yaml", OmegaConf.to_yaml(asdict(cfg)))

    def row(self, row: dict[str, Any]) -> None:
        """Append to metrics.csv, headed by the keys of the first row."""
        new = not self._metrics.exists()
        with self._metrics.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)

    def close(self, record: dict[str, Any]) -> None:
        """Write record.json."""
        write_atomically(self.path / "record.json", json.dumps(record, indent=2, allow_nan=False) + "\n")


class WandB:
    """Weights & Biases: the columns of metrics.csv, and the record as the run's summary."""

    def __init__(self, cfg: Config, folder: Path):
        try:
            import wandb

            mode = _wandb_mode(cfg.logger.mode)
            if mode == "online":
                _reach(wandb.setup().settings.base_url)
            self._run = self._started(wandb, cfg, folder, mode)
            self._run.define_metric("*", step_metric="epoch")
        except Exception as error:  # of all sorts: no home folder, no server, settings that it refuses
            what = f"W&B does not start: {' '.join(str(error).split()) or type(error).__name__}"
            instead = "log in with `wandb login`, or type logger.mode=offline or logger=csv"
            raise ConfigError([Problem("logger", "wandb", what, instead)]) from None

    @staticmethod
    def _started(wandb: Any, cfg: Config, folder: Path, mode: str) -> Any:
        return wandb.init(
            project=cfg.logger.project,
            entity=cfg.logger.entity,
            id=identity.run_id(cfg),
            name=f"seed={cfg.seed}",
            group=f"{folder.parent.name}-{identity.cell_id(cfg)}",
            job_type="train",
            tags=cfg.logger.tags,
            resume="allow",
            config=asdict(cfg),
            dir=str(folder),
            mode=mode,
        )

    def row(self, row: dict[str, Any]) -> None:
        """Log one epoch."""
        # The step keeps an epoch that is trained again after a crash from being logged twice.
        self._run.log({k: value for k, value in row.items() if value is not None}, step=row["epoch"])

    def close(self, record: dict[str, Any]) -> None:
        """Store the record and end the W&B run, as failed unless it is done."""
        self._run.summary.update(record)
        self._run.finish(exit_code=0 if record["status"] == "done" else 1)


def _wandb_mode(mode: str) -> Any:
    typed = os.environ.get("WANDB_MODE")
    if typed and typed != typed.lower():  # W&B reads it too, and refuses OFFLINE
        os.environ["WANDB_MODE"] = typed.lower()
    if mode != "auto":
        return mode
    if typed:
        return typed.lower()
    import wandb

    return "online" if wandb.api.api_key else "offline"


def _reach(url: str) -> None:
    """Ask whether a server answers at all: W&B itself would try for two minutes.

    Raises:
        OSError: if it does not.
    """
    place = urllib.parse.urlsplit(url)
    if place.hostname is None or urllib.request.getproxies():  # by way of a proxy that alone can tell
        return
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        socket.create_connection((place.hostname, port), REACHED).close()
    except OSError as error:
        raise OSError(f"{url} does not answer ({error})") from None


SINKS: dict[str, list[Callable[[Config, Path], Sink]]] = {"csv": [], "wandb": [WandB]}


class Tracker:
    """Hands a run's figures to its folder and to the chosen logger."""

    def __init__(self, cfg: Config, rows: Sequence[dict[str, Any]] = ()):
        """Of a run that has these rows so far."""
        self._cfg = cfg
        self._folder = RunFolder(cfg, rows)
        self._sinks: list[Sink] = []

    def start(self, record: dict[str, Any]) -> None:
        """Say that the run is on, and connect to the chosen logger."""
        self._folder.close(record)
        self._sinks += [make(self._cfg, self._folder.path) for make in SINKS[self._cfg.logger.name]]

    def row(self, row: dict[str, Any]) -> None:
        """Record one epoch."""
        self._folder.row(row)
        self._tell(lambda sink: sink.row(row))

    def close(self, record: dict[str, Any]) -> None:
        """End the run everywhere."""
        self._folder.close(record)
        self._tell(lambda sink: sink.close(record))

    def _tell(self, what: Callable[[Sink], None]) -> None:
        """A logger that breaks is let go of: no fault of a server ends a run, all of which is in its folder."""
        for sink in list(self._sinks):
            try:
                what(sink)
            except Exception as error:
                self._sinks.remove(sink)
                print(f"warning: nothing more goes to {self._cfg.logger.name}: {error}", file=sys.stderr)


class Untracked(Tracker):
    """Of a process beside the one that records their run."""

    def __init__(self) -> None:
        pass

    def start(self, record: dict[str, Any]) -> None:
        """Nothing."""

    def row(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def close(self, record: dict[str, Any]) -> None:
        """Nothing."""


def read_record(cfg: Config) -> dict[str, Any] | None:
    """The record of a configuration's run, or None if there is none that can be read."""
    return read(identity.run_directory(cfg) / "record.json")


def read(file: Path) -> dict[str, Any] | None:
    """A record, or None if the file is not there or not whole."""
    try:
        record = json.loads(file.read_text())
        return record if "status" in record else None
    except (OSError, ValueError, TypeError):
        return None


def write_atomically(file: Path, text: str) -> None:
    """Replace a file's contents whole: a reader sees the old text or the new."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_text(text, newline="")
    beside.replace(file)


def write_csv(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace a CSV whole; its columns are those of all rows, in the order in which they first occur."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(k for row in rows for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(file, text.getvalue())


def present(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """A run's record as things are: one that says "running" while no process is at it was interrupted."""
    gone = record["status"] == "running" and not lock.is_held(folder)
    return record | {"status": "interrupted"} if gone else record


def finished(cfg: Config) -> Path | None:
    """Where a configuration's finished run lies: its own folder, or that among the results; None if none is.

    A run whose checkpoint is asked for is finished only with it, and results keep none.
    """
    if Checkpoints(cfg).lacking:
        return None
    kept = [] if cfg.checkpoint.required else [identity.kept_directory(cfg)]
    for folder in (identity.run_directory(cfg), *kept):
        record = read(folder / "record.json")
        if record is not None and record["status"] == "done":
            return folder
    return None


def planned_runs(configs: Sequence[Config]) -> list[tuple[Path, dict[str, Any]]]:
    """The folder and record of each configuration's run, "not run" where there is none."""
    runs = {}
    for cfg in configs:
        absent = {"status": "not run", "method": cfg.method.name, "dataset": cfg.dataset.name}
        absent |= {"backbone": cfg.backbone.name, "seed": cfg.seed, "id": identity.run_id(cfg)}
        folder = finished(cfg) or identity.run_directory(cfg)
        record = read(folder / "record.json")
        runs[folder] = present(folder, record) if record else absent
    return list(runs.items())


def told_apart(runs: list[tuple[Path, dict[str, Any]]], configs: Sequence[Config] = ()) -> list[dict[str, str]]:
    """For each run the settings in which runs of one rule, data set, backbone and seed differ.

    Args:
        configs: of the runs, where they are known; else those in their folders are read.
    """
    known = {identity.run_id(cfg): asdict(cfg) for cfg in configs}
    alike: dict[tuple, list[int]] = {}
    for index, (_, record) in enumerate(runs):
        key = tuple(record.get(name) for name in ("method", "dataset", "backbone", "seed"))
        alike.setdefault(key, []).append(index)
    found: dict[int, dict[str, Any]] = {}
    names: set[str] = set()
    for group in (group for group in alike.values() if len(group) > 1):
        for index in group:
            folder, record = runs[index]
            values = known.get(record["id"]) or _config_values(folder)
            if values is not None:
                found[index] = values
        names.update(identity.telling([found[index] for index in group if index in found]))
    every = [dict(identity.leaves(found.get(index, {}))) for index in range(len(runs))]
    return [{name: _in_short(values.get(name, "")) for name in sorted(names)} for values in every]


def _config_values(folder: Path) -> dict[str, Any] | None:
    try:
        # By libyaml, where it is there: OmegaConf takes 20 ms a file.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        values = yaml.load((folder / "config.yaml").read_text(), loader)
        identity.identity(values)
    except (OSError, LookupError, TypeError, ValueError, yaml.YAMLError):  # no run's, or of another version
        return None
    return values


def _in_short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 30 else f"{text[:27]}..."


def found_runs(output_dir: str) -> list[tuple[Path, dict[str, Any]]]:
    """The folder and record of every run in a folder, in the order they ended in."""
    files = sorted(Path(output_dir).rglob("record.json"), key=lambda file: file.parent.stat().st_ctime)
    records = [(file.parent, read(file)) for file in files]
    return [(folder, present(folder, record)) for folder, record in records if record is not None]
