"""What peaks and speeds are measured of, and how one cell that fails leaves the others alone."""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from localsl.config.composition import Composition
from localsl.config.validation import compose
from localsl.measure.gpu.groups import ROOT
from localsl.runs import tracking

if TYPE_CHECKING:
    from localsl.config.command import Command

SETTING = ["dataset=cifar10", "batch_size=1024"]
NETWORKS = ["backbone=resnet32 K=16", "backbone=resnet110 K=55"]
SPEED_NETWORK = NETWORKS[0]

DEEP = ["method=auglocal aux.depth=2", "method=auglocal aux.depth=6"]
PEAKS = [*(f"method={name}" for name in ("bp", "predsim", "dgl", "infopro", "man", "mlaan")), *DEEP]

SPEEDS = ["method=bp", "method=bp_checkpoint", "method=predsim", "method=dgl", "method=infopro"]
SPEEDS += ["method=auglocal aux.depth=3", "method=auglocal aux.depth=6", "method=man", "method=man_released"]
SPEEDS += ["method=mlaan", "method=mlaan_released", "method=mlm", "method=lam"]

# How steps are executed, what matters most first: a deadline loses the last.
COLUMNS = {
    "fp32": [],
    "bf16": ["precision=bf16"],
    "bf16 graph": ["precision=bf16", "cuda_graph=true"],
    "fast": ["fast=true"],
    "compiled": ["precision=bf16", "compile=true", "cuda_graph=true"],
}


class Cells:
    """Configurations of cells, measured into a folder of work, with what was typed for all of them."""

    def __init__(self, work: Path, device: str, setting: str):
        places = [f"output_dir={work}/outputs", f"results_dir={ROOT}/results", f"device={device}"]
        self._all, self._composition = [*SETTING, *places, setting], Composition()

    def config(self, measure: str, *overrides: str) -> Command:
        """Of a cell; of a key that is typed twice the last counts, and what is typed for all."""
        words = [word for text in (*overrides, *self._all) for word in text.split()]
        last = {word.partition("=")[0]: word for word in words}
        return compose([*last.values(), f"measure={measure}"], self._composition)


class Rows:
    """A table that grows, in a file."""

    def __init__(self, file: Path, names: Iterable[str] = ()):
        self._file = file
        self._rows: dict[str, dict[str, object]] = {name: {"cell": name} for name in names}

    def set(self, name: str, **figures: object) -> None:
        """Figures of a row, more of them or anew."""
        self._rows.setdefault(name, {"cell": name}).update(figures)
        columns = list(dict.fromkeys(key for row in self._rows.values() for key in row))
        rows = [{key: row.get(key, "") for key in columns} for row in self._rows.values()]
        tracking.write_atomically(self._file, json.dumps(rows, indent=2) + "\n")

    def resume(self, rows: list[dict[str, object]]) -> None:
        """Go on from what the file held."""
        self._rows.update({str(row["cell"]): row for row in rows})

    def text(self, name: str, column: str) -> str:
        """What is in a cell; empty if nothing is."""
        return str(self._rows.get(name, {}).get(column, ""))


def label(overrides: str) -> str:
    """A rule in short: `auglocal d=3`."""
    return overrides.replace("method=", "").replace("aux.depth=", "d=").replace("backbone=", "")


def parser(what: str) -> argparse.ArgumentParser:
    """Of a stage's own command line."""
    made = argparse.ArgumentParser(description=what)
    made.add_argument("--work", type=Path, required=True)
    made.add_argument("--device", default="auto")
    made.add_argument("--setting", default="", help="overrides of run.py for every cell")
    made.add_argument("--rules", default="", help="of some rules only: bp,auglocal d=3")
    return made


def chosen(rules: list[str], typed: str) -> list[str]:
    """Those of the rules that are typed, by their short names; all if none is."""
    names = [name.strip() for name in typed.split(",") if name.strip()]
    return [rule for rule in rules if not names or label(rule) in names]


def reason(error: BaseException) -> str:
    """An error in a table's cell."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:80]


def clear(device: torch.device) -> None:
    """Let go of what the cell before left on the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.default_stream(device))  # a recording that fails leaves its own
        torch.cuda.empty_cache()


def lost(device: torch.device) -> bool:
    """Whether an error has left the device of no use to this process."""
    try:
        torch.zeros(1, device=device).item()
    except RuntimeError:
        return True
    return False
