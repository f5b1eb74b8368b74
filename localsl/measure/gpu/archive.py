"""The two result files: an archive to unpack into a clone, and a summary to read.

Both are rewritten atomically after every stage and every run, and every few seconds in between. If the machine is
taken away, they contain everything that had ended.
"""

from __future__ import annotations

import io
import json
import os
import platform
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from localsl.execution import files
from localsl.runs import display, provenance, stored

ARCHIVE, SUMMARY = "gpu.tar.gz", "gpu.md"
MAX_OUTPUT = 2**20  # bytes kept of the end of a stage's or run's output
SHOWN_LINES = 12  # lines of output in the summary
ENDED = ("done", "diverged")  # states of runs that are unpacked into a clone's outputs; others are kept apart


class Report:
    """The results in a work folder and the states of its stages, including stages of earlier commands."""

    def __init__(self, work: Path, out: Path, device: torch.device):
        self._work, self._out = work, out
        self._file = work / "stages.json"
        self._stages: dict[str, dict[str, Any]] = read(self._file) or {}
        self._head = _head(device)
        work.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        for partial in (
            *out.glob(f".{ARCHIVE}.*"),
            *out.glob(f".{SUMMARY}.*"),
        ):  # of a process killed while writing
            partial.unlink()

    def stage(self, name: str, state: str, seconds: float | None = None) -> None:
        """Record and print the state of a stage, and write both files."""
        self._stages[name] = {"stage": name, "state": state, "seconds": round(seconds or 0, 1)}
        files.write(self._file, json.dumps(self._stages, indent=2) + "\n")
        print(f"{name:<8} {state}" + (f", {seconds:.1f} s" if seconds is not None else ""), flush=True)
        self.write()

    def write(self) -> None:
        """Rewrite both files."""
        summary = self.summary()
        files.write(self._out / SUMMARY, summary)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=6) as archive:
            _add(archive, f"gpu/{SUMMARY}", summary.encode())
            for name, file in sorted(contents(self._work)):
                _add(archive, name, _end(file))
        temporary = self._out / f".{ARCHIVE}.{os.getpid()}"
        temporary.write_bytes(packed.getvalue())
        temporary.replace(self._out / ARCHIVE)

    def summary(self) -> str:
        """Device, versions, stages and their tables, and the end of the output of stages without success or table."""
        lines = [*self._head, "", _block(display.table(list(self._stages.values())))]
        for name, stage in self._stages.items():
            rows, output = read(self._work / f"{name}.json"), self._work / f"{name}.txt"
            rows_suffice = rows and stage["state"].startswith(("done", "running"))
            lines += ["", f"## {name}"]
            if rows:
                lines += ["", _block(display.table(rows))]
            if output.exists() and not rows_suffice:
                printed = _end(output).decode(errors="replace").splitlines()
                lines += ["", _block("\n".join(line[:200] for line in printed[-SHOWN_LINES:]))]
        return "\n".join(lines) + "\n"


def contents(work: Path) -> Iterator[tuple[str, Path]]:
    """The archive's names and files: outputs, tables, measurements and the folders of runs, without checkpoints."""
    for file in (*work.glob("*.txt"), *work.glob("*.json")):
        yield f"gpu/{file.name}", file
    outputs = work / "outputs"
    for file in outputs.glob("measured/*.*"):
        if not file.name.startswith("."):
            yield f"outputs/measured/{file.name}", file
    for record in outputs.rglob("record.json"):
        run = record.parent
        ended = (stored.read(record) or {}).get("status") in ENDED
        place = "outputs" if ended else "gpu/unfinished"
        for file in run.glob("*"):
            if file.is_file() and not file.name.startswith("."):
                yield f"{place}/{file.relative_to(outputs)}", file


def read(file: Path) -> Any:
    """The content of a JSON file, or None if it is missing or incomplete."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def _head(device: torch.device) -> list[str]:
    name = provenance.device_name(device)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    commit = provenance.short(provenance.environment(device)["commit"]) or "unknown"
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return [f"# {name}", "", f"{versions}, {cores} cores, commit {commit}, started {began}"]


def _block(text: str) -> str:
    return f"```\n{text}\n```"


def _end(file: Path) -> bytes:
    """The content of a file, or the end of a long output; empty if the file has been removed meanwhile."""
    try:
        return file.read_bytes()[-MAX_OUTPUT if file.suffix == ".txt" else 0 :]
    except OSError:
        return b""


def _add(archive: tarfile.TarFile, name: str, contents: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(contents), int(time.time()), 0o644
    archive.addfile(entry, io.BytesIO(contents))
