"""What a run leaves behind: its folder with configuration, metrics and record, W&B, and what is shown."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from localsl import identity
from localsl.schema import ConfigError, Problem

if TYPE_CHECKING:
    from localsl.settings import Config

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


class Held(Exception):
    """Another process is at this run."""


def is_held(folder: Path) -> bool:
    """Whether a process is at the run of this folder."""
    try:
        with (folder / ".lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def exclusive(cfg: Config) -> Iterator[None]:
    """Hold a run's folder, created if need be, against other processes; wait while another holds it.

    Raises:
        Held: instead of waiting, if `cfg.held` says so.
        ConfigError: if the folder cannot be written.
    """
    path = identity.run_directory(cfg)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("w")
    except OSError as error:
        what = f"the run's folder {path} cannot be written ({error.strerror})"
        raise ConfigError([Problem("output_dir", cfg.output_dir, what, "type output_dir=FOLDER")]) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if cfg.held == "skip":
                raise Held from None
            print(f"another process is at this run: waiting for {path}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class WandB:
    """Weights & Biases: the columns of metrics.csv, and the record as the run's summary."""

    def __init__(self, cfg: Config, folder: Path):
        import wandb

        try:
            mode = _wandb_mode(cfg.logger.mode)
            self._run = self._started(wandb, cfg, folder, mode)
        except (wandb.Error, ValueError) as error:
            what = f"W&B does not start: {str(error).splitlines()[0]}"
            instead = "log in with `wandb login`, or type logger.mode=offline or logger=csv"
            raise ConfigError([Problem("logger", "wandb", what, instead)]) from None
        self._run.define_metric("*", step_metric="epoch")

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
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    import wandb

    return "online" if wandb.api.api_key else "offline"


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


def kept_directory(cfg: Config) -> Path:
    """Where a run's record lies once it is among the results: RESULTS_DIR/runs/<run id>."""
    return Path(cfg.results_dir) / "runs" / identity.run_id(cfg)


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


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and commit: what else a number may depend on."""
    packages = ("torch", "torchvision", "numpy")
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "tf32": bool(torch.backends.cudnn.allow_tf32) if device.type == "cuda" else None,
        "commit": _commit(),
    }


def device_name(device: torch.device) -> str:
    """What the maker calls the processor or GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def short(commit: str | None) -> str:
    """A record's commit in ten digits, with its "+"; empty if it has none."""
    return "" if commit is None else commit[:10] + commit[40:]


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

    def __init__(self, epochs: int, steps: int, done: int = 0, shown: bool = True):
        """`steps` are an epoch's; `done` of the run's are done; a bar is only `shown` by one of several."""
        self._epochs = epochs
        terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(total=epochs * steps, initial=done, unit="step", disable=not terminal, leave=False)

    def steps(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, each counted once it is done with."""
        for batch in batches:
            yield batch
            self._bar.update()

    def epoch(self, row: dict[str, Any], best: float) -> None:
        """Tell one epoch's figures."""
        top5 = f"top-5 {row['test_top5_accuracy']:.2f} %  " if "test_top5_accuracy" in row else ""
        told = f"loss {row['train_loss']:.4f}  test {row['test_accuracy']:.2f} %  {top5}best {best:.2f} %"
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


def planned_runs(configs: list[Config]) -> list[tuple[Path, dict[str, Any]]]:
    """The folder and record of each configuration's run, "not run" where there is none."""
    runs = {}
    for cfg in configs:
        absent = {"status": "not run", "method": cfg.method.name, "dataset": cfg.dataset.name}
        absent |= {"backbone": cfg.backbone.name, "seed": cfg.seed, "id": identity.run_id(cfg)}
        runs[identity.run_directory(cfg)] = read_record(cfg) or absent
    return list(runs.items())


def found_runs(output_dir: str) -> list[tuple[Path, dict[str, Any]]]:
    """The folder and record of every run in a folder, in the order they ended in."""
    files = sorted(Path(output_dir).rglob("record.json"), key=lambda file: file.parent.stat().st_ctime)
    records = [(file.parent, read(file)) for file in files]
    return [(folder, record) for folder, record in records if record is not None]


def summary(runs: list[tuple[Path, dict[str, Any]]]) -> str:
    """A table of runs from their records, and the files they wrote."""
    if not runs:
        return "no runs"
    rows = []
    for _, record in runs:
        done = record["status"] == "done"
        rows.append(
            {
                "method": record["method"],
                "dataset": record["dataset"],
                "backbone": record["backbone"],
                "seed": record["seed"],
                "modules": record["modules"] if done else "",
                "test %": f"{record['last']['test_accuracy']:.2f}" if done else record["status"],
                "best %": f"{record['best']['test_accuracy']:.2f}" if done else "",
                "peak memory": mebibytes(record["peak_memory_bytes"]) if done else "",
                "seconds": f"{record['seconds']:.1f}" if done else "",
                "id": record["id"],
            }
        )
    files = [f"{folder}/{{config.yaml,metrics.csv,record.json}}" for folder, r in runs if r["status"] == "done"]
    return "\n".join([table(rows), "", "Files:", *(f"  {file}" for file in files)])


def mebibytes(count: int | None) -> str:
    """Bytes as MiB."""
    return "not counted" if count is None else f"{count / 2**20:.1f} MiB"
