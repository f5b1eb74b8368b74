"""What a run leaves behind: its folder with configuration, metrics and record, W&B, and what is shown."""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from localsl import identity

if TYPE_CHECKING:
    from localsl.config import Config

T = TypeVar("T")


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

    def __init__(self, cfg: Config):
        self.path = identity.run_directory(cfg)
        self.path.mkdir(parents=True, exist_ok=True)
        self._metrics = self.path / "metrics.csv"
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
        write_atomically(self.path / "record.json", json.dumps(record, indent=2) + "\n")


class WandB:
    """Weights & Biases: the columns of metrics.csv, and the record as the run's summary."""

    def __init__(self, cfg: Config, folder: Path):
        import wandb

        self._run = wandb.init(
            project=cfg.logger.project,
            entity=cfg.logger.entity,
            id=identity.run_id(cfg),
            name=f"seed={cfg.seed}",
            group=f"{folder.parent.name}-{identity.cell_id(cfg)}",
            job_type="train",
            resume="allow",
            config=asdict(cfg),
            dir=str(folder),
            mode=_wandb_mode(cfg.logger.mode),
        )
        self._run.define_metric("*", step_metric="epoch")

    def row(self, row: dict[str, Any]) -> None:
        """Log one epoch."""
        self._run.log({key: value for key, value in row.items() if value is not None})

    def close(self, record: dict[str, Any]) -> None:
        """Store the record and end the W&B run, as failed unless it is done."""
        self._run.summary.update(record)
        self._run.finish(exit_code=0 if record["status"] == "done" else 1)


def _wandb_mode(mode: str) -> Any:
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    import wandb

    return "online" if wandb.api.api_key else "offline"


SINKS: dict[str, list[Callable[[Config, Path], Sink]]] = {"csv": [], "wandb": [WandB]}


class Tracker:
    """Hands a run's figures to its folder and to the chosen logger."""

    def __init__(self, cfg: Config):
        folder = RunFolder(cfg)
        self.path = folder.path
        self._sinks: list[Sink] = [folder]
        self._sinks += [make(cfg, folder.path) for make in SINKS[cfg.logger.name]]

    def row(self, row: dict[str, Any]) -> None:
        """Record one epoch."""
        for sink in self._sinks:
            sink.row(row)

    def close(self, record: dict[str, Any]) -> None:
        """End the run everywhere."""
        for sink in self._sinks:
            sink.close(record)


def read_record(cfg: Config) -> dict[str, Any] | None:
    """The record of a configuration's run, or None if there is none."""
    file = identity.run_directory(cfg) / "record.json"
    return json.loads(file.read_text()) if file.exists() else None


def write_atomically(file: Path, text: str) -> None:
    """Replace a file's contents whole: a reader sees the old text or the new."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(file)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and commit: what else a number may depend on."""
    packages = ("torch", "torchvision", "numpy")
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the code, with "+" where files differ from it; None outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed else "")


class Progress:
    """A bar with the time left on a terminal, one line an epoch elsewhere. The bar is on stderr."""

    def __init__(self, epochs: int, steps: int):
        self._epochs = epochs
        self._bar = tqdm(total=epochs * steps, unit="step", disable=not sys.stderr.isatty(), leave=False)

    def steps(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, each counted once it is done with."""
        for batch in batches:
            yield batch
            self._bar.update()

    def epoch(self, row: dict[str, Any], best: float) -> None:
        """Tell one epoch's figures."""
        told = f"loss {row['train_loss']:.4f}  test {row['test_accuracy']:.2f} %  best {best:.2f} %"
        if self._bar.disable:
            width = len(str(self._epochs))
            speed = f"{row['images_per_s']:.0f} images/s"
            print(
                f"epoch {row['epoch']:{width}}/{self._epochs}  lr {row['lr']:.4f}  {told}  {speed}",
                flush=True,
            )
        else:
            self._bar.set_description_str(f"epoch {row['epoch']}")
            self._bar.set_postfix_str(told)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned text; numbers to the right."""
    head = list(rows[0])
    cells = [[str(row[key]) for key in head] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    right = [isinstance(rows[0][key], int | float) for key in head]

    def line(values: list[str]) -> str:
        parts = (v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join(line(values) for values in [head, *cells])


def summary(configs: list[Config]) -> str:
    """A table of several runs from their records, and the files they wrote."""
    rows, files = [], []
    for cfg in configs:
        record = read_record(cfg) or {"status": "not run"}
        done = record["status"] == "done"
        rows.append(
            {
                "method": cfg.method.name,
                "dataset": cfg.dataset.name,
                "backbone": cfg.backbone.name,
                "seed": cfg.seed,
                "modules": record["modules"] if done else "",
                "test %": f"{record['last']['test_accuracy']:.2f}" if done else record["status"],
                "best %": f"{record['best']['test_accuracy']:.2f}" if done else "",
                "peak memory": mebibytes(record["peak_memory_bytes"]) if done else "",
                "seconds": f"{record['seconds']:.1f}" if done else "",
            }
        )
        if done:
            files.append(f"{identity.run_directory(cfg)}/{{config.yaml,metrics.csv,record.json}}")
    return "\n".join([table(rows), "", "Files:", *(f"  {file}" for file in files)])


def mebibytes(count: int) -> str:
    """Bytes as MiB."""
    return f"{count / 2**20:.1f} MiB"
