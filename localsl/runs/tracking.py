"""Recording a run: its folder with configuration, metrics and record, and W&B."""

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

from omegaconf import OmegaConf

from localsl.core.settings import ConfigError, Problem
from localsl.execution import files
from localsl.runs import identity

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
