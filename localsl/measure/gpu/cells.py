"""The cells of the memory and speed stages: their configurations, their table, and recovery from errors."""

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
from localsl.execution import files
from localsl.measure.gpu.groups import ROOT

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

# Ways to execute steps, the most important first, since the deadline may cut off the last.
COLUMNS = {
    "fp32": [],
    "bf16": ["precision=bf16"],
    "bf16 graph": ["precision=bf16", "cuda_graph=true"],
    "fast": ["fast=true"],
    "compiled": ["precision=bf16", "compile=true", "cuda_graph=true"],
}


class Cells:
    """Builds the configurations of cells, with overrides for all of them, that are measured into a work folder."""

    def __init__(self, work: Path, device: str, setting: str):
        places = [f"output_dir={work}/outputs", f"results_dir={ROOT}/results", f"device={device}"]
        self._all, self._composition = [*SETTING, *places, setting], Composition()

    def config(self, measure: str, *overrides: str) -> Command:
        """The configuration of a cell; of repeated keys the last counts, and overrides for all cells come last."""
        words = [word for text in (*overrides, *self._all) for word in text.split()]
        last = {word.partition("=")[0]: word for word in words}
        return compose([*last.values(), f"measure={measure}"], self._composition)


class Rows:
    """A table that is written to a JSON file after every change."""

    def __init__(self, file: Path, names: Iterable[str] = ()):
        self._file = file
        self._rows: dict[str, dict[str, object]] = {name: {"cell": name} for name in names}

    def set(self, name: str, **figures: object) -> None:
        """Add or replace figures of a row, and write the file."""
        self._rows.setdefault(name, {"cell": name}).update(figures)
        columns = list(dict.fromkeys(key for row in self._rows.values() for key in row))
        rows = [{key: row.get(key, "") for key in columns} for row in self._rows.values()]
        files.write(self._file, json.dumps(rows, indent=2) + "\n")

    def resume(self, rows: list[dict[str, object]]) -> None:
        """Continue from rows that were read from the file."""
        self._rows.update({str(row["cell"]): row for row in rows})

    def text(self, name: str, column: str) -> str:
        """The text of a cell, or an empty string."""
        return str(self._rows.get(name, {}).get(column, ""))


def label(overrides: str) -> str:
    """A short name for overrides, such as `auglocal d=3`."""
    return overrides.replace("method=", "").replace("aux.depth=", "d=").replace("backbone=", "")


def stage_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments that the stages share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, required=True, help="folder for results")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1 or cpu")
    parser.add_argument("--setting", default="", help="overrides of run.py for every cell")
    parser.add_argument("--rules", default="", help="rules to measure, such as bp,auglocal d=3; default: all")
    return parser


def select(rules: list[str], wanted: str) -> list[str]:
    """The rules whose short names are listed in `wanted`, or all if it is empty."""
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    return [rule for rule in rules if not names or label(rule) in names]


def reason(error: BaseException) -> str:
    """An error as the text of a cell, at most 80 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:80]


def clear(device: torch.device) -> None:
    """Free the memory that the previous cell left on the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.default_stream(device))  # a failed recording leaves its own stream set
        torch.cuda.empty_cache()


def device_lost(device: torch.device) -> bool:
    """Whether an error has made the device unusable for this process."""
    try:
        torch.zeros(1, device=device).item()
    except RuntimeError:
        return True
    return False
