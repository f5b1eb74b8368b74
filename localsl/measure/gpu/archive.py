"""The two files that are left of it all: an archive to unpack into a clone, and a summary to read.

Both are written whole after every stage and every run, and every few seconds in between: of a machine that is
taken away, what had ended is in them.
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

from localsl.runs import display, provenance, tracking

ARCHIVE, SUMMARY = "gpu.tar.gz", "gpu.md"
OUTPUT_KEPT = 2**20  # bytes of what a stage or run printed, its end
SHOWN = 12  # lines of it in the summary
ENDED = ("done", "diverged")  # runs that unpack among a clone's; what is left of others is kept apart


class Report:
    """What is known so far of a folder of work, and how its stages went.

    Of stages before it in the same folder too.
    """

    def __init__(self, work: Path, out: Path, device: torch.device):
        self._work, self._out = work, out
        self._file = work / "stages.json"
        self._stages: dict[str, dict[str, Any]] = read(self._file) or {}
        self._head = _head(device)
        work.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        for left in (*out.glob(f".{ARCHIVE}.*"), *out.glob(f".{SUMMARY}.*")):  # of one killed as it wrote
            left.unlink()

    def stage(self, name: str, state: str, seconds: float | None = None) -> None:
        """Note how a stage goes, and write both files."""
        self._stages[name] = {"stage": name, "state": state, "seconds": round(seconds or 0, 1)}
        tracking.write_atomically(self._file, json.dumps(self._stages, indent=2) + "\n")
        print(f"{name:<8} {state}" + (f", {seconds:.1f} s" if seconds is not None else ""), flush=True)
        self.tell()

    def tell(self) -> None:
        """Write both files anew."""
        summary = self.summary()
        tracking.write_atomically(self._out / SUMMARY, summary)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=6) as archive:
            _add(archive, f"gpu/{SUMMARY}", summary.encode())
            for name, file in sorted(contents(self._work)):
                _add(archive, name, _end(file))
        beside = self._out / f".{ARCHIVE}.{os.getpid()}"
        beside.write_bytes(packed.getvalue())
        beside.replace(self._out / ARCHIVE)

    def summary(self) -> str:
        """Device, versions, stages, their figures, and the end of what they printed unless they ended well."""
        told = [*self._head, "", _block(display.table(list(self._stages.values())))]
        for name, stage in self._stages.items():
            rows, output = read(self._work / f"{name}.json"), self._work / f"{name}.txt"
            ended_well = rows and stage["state"].startswith(("done", "running"))
            told += ["", f"## {name}"]
            if rows:
                told += ["", _block(display.table(rows))]
            if output.exists() and not ended_well:
                lines = _end(output).decode(errors="replace").splitlines()
                told += ["", _block("\n".join(line[:200] for line in lines[-SHOWN:]))]
        return "\n".join(told) + "\n"


def contents(work: Path) -> Iterator[tuple[str, Path]]:
    """What of a folder of work goes into the archive, under which names: no checkpoints."""
    for file in (*work.glob("*.txt"), *work.glob("*.json")):
        yield f"gpu/{file.name}", file
    outputs = work / "outputs"
    for file in outputs.glob("measured/*.*"):
        if not file.name.startswith("."):
            yield f"outputs/measured/{file.name}", file
    for record in outputs.rglob("record.json"):
        run = record.parent
        ended = (tracking.read(record) or {}).get("status") in ENDED
        place = "outputs" if ended else "gpu/unfinished"
        for file in run.glob("*"):
            if file.is_file() and not file.name.startswith("."):
                yield f"{place}/{file.relative_to(outputs)}", file


def read(file: Path) -> Any:
    """What a file of JSON holds, or None if it is not there or not whole."""
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
    return [f"# {name}", "", f"{versions}, {cores} cores, commit {commit}, begun {began}"]


def _block(text: str) -> str:
    return f"```\n{text}\n```"


def _end(file: Path) -> bytes:
    """A file's contents, of a long output its end; empty if it has just gone."""
    try:
        return file.read_bytes()[-OUTPUT_KEPT if file.suffix == ".txt" else 0 :]
    except OSError:
        return b""


def _add(archive: tarfile.TarFile, name: str, contents: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(contents), int(time.time()), 0o644
    archive.addfile(entry, io.BytesIO(contents))
