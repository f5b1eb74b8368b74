"""The record of a run: its folder with configuration, metrics and record, and W&B."""

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
from localsl.execution import files
from localsl.runs import identity, lock
from localsl.runs.checkpoint import Checkpoints

if TYPE_CHECKING:
    from localsl.config.schema import Config


TIMEOUT_S = 10  # for the connection to a logger's server


class Sink(Protocol):
    """A destination of metrics."""

    def row(self, row: dict[str, Any]) -> None:
        """Record the figures of an epoch."""
        ...

    def close(self, record: dict[str, Any]) -> None:
        """Record the end of a run, whether it succeeded or not."""
        ...


class RunFolder:
    """The files of a run: config.yaml, metrics.csv with one row per epoch, and record.json."""

    def __init__(self, cfg: Config, rows: Sequence[dict[str, Any]] = ()):
        """`rows` are the epochs recorded so far."""
        self.path = identity.run_directory(cfg)
        self._metrics = self.path / "metrics.csv"
        if rows:
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, rows[0])
            writer.writeheader()
            writer.writerows(rows)
            files.write(self._metrics, text.getvalue())
        else:
            self._metrics.unlink(missing_ok=True)
        files.write(self.path / "config.yaml", OmegaConf.to_yaml(asdict(cfg)))

    def row(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.csv; the keys of the first row are the header."""
        new = not self._metrics.exists()
        with self._metrics.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)

    def close(self, record: dict[str, Any]) -> None:
        """Write record.json."""
        files.write(self.path / "record.json", json.dumps(record, indent=2, allow_nan=False) + "\n")


class WandB:
    """Weights & Biases: the columns of metrics.csv, and the record as the run's summary."""

    def __init__(self, cfg: Config, folder: Path):
        try:
            import wandb

            mode = _wandb_mode(cfg.logger.mode)
            if mode == "online":
                _check_reachable(wandb.setup().settings.base_url)
            self._run = self._started(wandb, cfg, folder, mode)
            self._run.define_metric("*", step_metric="epoch")
        except Exception as error:  # of any kind: no home folder, no server, invalid settings
            what = f"W&B cannot start: {' '.join(str(error).split()) or type(error).__name__}"
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
        # With a step, W&B ignores an epoch that is trained a second time after a crash.
        self._run.log({k: value for k, value in row.items() if value is not None}, step=row["epoch"])

    def close(self, record: dict[str, Any]) -> None:
        """Store the record as summary and end the W&B run, as failed unless it is done."""
        self._run.summary.update(record)
        self._run.finish(exit_code=0 if record["status"] == "done" else 1)


def _wandb_mode(mode: str) -> Any:
    typed = os.environ.get("WANDB_MODE")
    if typed and typed != typed.lower():  # W&B reads the variable too, and rejects OFFLINE
        os.environ["WANDB_MODE"] = typed.lower()
    if mode != "auto":
        return mode
    if typed:
        return typed.lower()
    import wandb

    return "online" if wandb.api.api_key else "offline"


def _check_reachable(url: str) -> None:
    """Check that a server answers at all, because W&B itself would try for two minutes.

    Raises:
        OSError: if it does not answer.
    """
    place = urllib.parse.urlsplit(url)
    if place.hostname is None or urllib.request.getproxies():  # a proxy accepts any connection
        return
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        socket.create_connection((place.hostname, port), TIMEOUT_S).close()
    except OSError as error:
        raise OSError(f"{url} does not answer ({error})") from None


SINKS: dict[str, list[Callable[[Config, Path], Sink]]] = {"csv": [], "wandb": [WandB]}


class Tracker:
    """Passes a run's figures to its folder and to the chosen logger."""

    def __init__(self, cfg: Config, rows: Sequence[dict[str, Any]] = ()):
        """`rows` are the epochs recorded so far."""
        self._cfg = cfg
        self._folder = RunFolder(cfg, rows)
        self._sinks: list[Sink] = []

    def start(self, record: dict[str, Any]) -> None:
        """Record that the run has started, and connect to the chosen logger."""
        self._folder.close(record)
        self._sinks += [make(self._cfg, self._folder.path) for make in SINKS[self._cfg.logger.name]]

    def row(self, row: dict[str, Any]) -> None:
        """Record an epoch in the folder and with the logger."""
        self._folder.row(row)
        self._call_sinks(lambda sink: sink.row(row))

    def close(self, record: dict[str, Any]) -> None:
        """Record the end of the run in the folder and with the logger."""
        self._folder.close(record)
        self._call_sinks(lambda sink: sink.close(record))

    def _call_sinks(self, what: Callable[[Sink], None]) -> None:
        """Call the logger, and drop it after an error: the folder has all data, so that a server cannot end a run."""
        for sink in list(self._sinks):
            try:
                what(sink)
            except Exception as error:
                self._sinks.remove(sink)
                print(
                    f"warning: {self._cfg.logger.name} failed and is no longer used: {error}", file=sys.stderr
                )


class Untracked(Tracker):
    """The tracker of a process that does not record its run: it does nothing."""

    def __init__(self) -> None:
        pass

    def start(self, record: dict[str, Any]) -> None:
        """Do nothing."""

    def row(self, row: dict[str, Any]) -> None:
        """Do nothing."""

    def close(self, record: dict[str, Any]) -> None:
        """Do nothing."""


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
    if Checkpoints(cfg).missing:
        return None
    kept = [] if cfg.checkpoint.required else [identity.kept_directory(cfg)]
    for folder in (identity.run_directory(cfg), *kept):
        record = read(folder / "record.json")
        if record is not None and record["status"] == "done":
            return folder
    return None


def planned_runs(configs: Sequence[Config]) -> list[tuple[Path, dict[str, Any]]]:
    """The folder and record of the run of each configuration, with the status "not run" if there is none."""
    runs = {}
    for cfg in configs:
        absent = {"status": "not run", "method": cfg.method.name, "dataset": cfg.dataset.name}
        absent |= {"backbone": cfg.backbone.name, "seed": cfg.seed, "id": identity.run_id(cfg)}
        folder = finished(cfg) or identity.run_directory(cfg)
        record = read(folder / "record.json")
        runs[folder] = present(folder, record) if record else absent
    return list(runs.items())


def distinctions(
    runs: list[tuple[Path, dict[str, Any]]], configs: Sequence[Config] = ()
) -> list[dict[str, str]]:
    """For each run, the settings in which runs with the same rule, data set, backbone and seed differ.

    Args:
        configs: the configurations of the runs, if known; others are read from their folders.
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
        names.update(identity.distinguishing([found[index] for index in group if index in found]))
    every = [dict(identity.leaves(found.get(index, {}))) for index in range(len(runs))]
    return [{name: _shortened(values.get(name, "")) for name in sorted(names)} for values in every]


def _config_values(folder: Path) -> dict[str, Any] | None:
    try:
        # Read with libyaml if available, because OmegaConf takes 20 ms per file.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        values = yaml.load((folder / "config.yaml").read_text(), loader)
        identity.identity(values)
    except (OSError, LookupError, TypeError, ValueError, yaml.YAMLError):  # not a run's, or of another version
        return None
    return values


def _shortened(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 30 else f"{text[:27]}..."


def found_runs(output_dir: str) -> list[tuple[Path, dict[str, Any]]]:
    """The folder and record of every run in a folder, in the order in which they ended."""
    files = sorted(Path(output_dir).rglob("record.json"), key=lambda file: file.parent.stat().st_ctime)
    records = [(file.parent, read(file)) for file in files]
    return [(folder, present(folder, record)) for folder, record in records if record is not None]
