"""Results and the runs behind them as data frames, for notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from localsl.published import numbers as published
from localsl.published.numbers import KEYS
from localsl.runs import tracking
from localsl.tables import render

ROOT = Path(__file__).resolve().parent.parent.parent
NUMBERS = ["paper_mean", "paper_std", "ours_mean", "ours_std", "n", "difference", "best_mean", "best_std"]
TOLD = ["id", "seed", "dataset", "backbone", "K", "method", "modules", "device"]
TOLD += ["peak_memory_bytes", "peak_memory_scope"]


def results(folder: Path) -> pd.DataFrame:
    """The rows of all FOLDER/<paper>/tableN.csv: a published number under one setting each.

    Keys and settings are texts, empty where a table has none; numbers are floats, NaN where there is none.
    Beside the columns of the files:
        table: "man/table1".
        paper, ours: as texts with their spread, also where they are no numbers.
        label: rule, base, K, depth and variant in words.
        setting: of runs, in words, or what a measurement is of; different ones share neither a row nor a mean.
    """
    frames = []
    for file in sorted(folder.glob("*/table*.csv"), key=lambda file: (file.parent, len(file.stem), file.stem)):
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
        frame.insert(0, "table", f"{file.parent.name}/{file.stem}")
        frames.append(frame)
    made = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["table", *render.COLUMNS])
    for name in ("paper", "ours"):
        mean, std = made[f"{name}_mean"], made[f"{name}_std"]
        made[name] = mean.where(std == "", mean + " ± " + std)
    made["label"] = _labels(made)
    made["setting"] = [render.setting(row) or row["measured_on"] for row in made.to_dict("records")]
    made[NUMBERS] = made[NUMBERS].apply(pd.to_numeric, errors="coerce")
    return made


def behind(made: pd.DataFrame) -> pd.DataFrame:
    """A row for every run that a row of `results` is the mean of, with its `id`."""
    return made.assign(id=made["runs"].str.split()).explode("id").dropna(subset="id")


def runs(folder: Path) -> pd.DataFrame:
    """A row for every finished run of classification anywhere below: of its record, and `test_error` at its end in
    per cent.
    """
    rows = [
        {key: record[key] for key in TOLD} | {"test_error": 100 - record["last"]["test_accuracy"]}
        for _, record in _finished(folder)
        if "test_accuracy" in record["last"]
    ]
    return pd.DataFrame(rows, columns=[*TOLD, "test_error"]).drop_duplicates("id")


def epochs(folder: Path) -> pd.DataFrame:
    """The rows of metrics.csv of every finished run anywhere below, with the run's `id` and `seed`.

    Without the columns of single modules, of which there are up to 110.
    """
    frames = {}
    for path, record in _finished(folder):
        if (path / "metrics.csv").exists():
            frame = pd.read_csv(path / "metrics.csv", usecols=lambda name: not name.startswith("module_"))
            frames[record["id"]] = frame.assign(id=record["id"], seed=record["seed"])
    if not frames:
        return pd.DataFrame(columns=["id", "seed", "epoch"])
    return pd.concat(list(frames.values()), ignore_index=True)


def printed(table: str, metric: str) -> pd.DataFrame:
    """The numbers of one metric that a table such as "mlaan/table3" prints, in a column of its name."""
    numbers = [number for number in published.read(table) if number.metric == metric]
    frame = pd.DataFrame([number.keys for number in numbers], columns=list(KEYS))
    return frame.assign(**{"label": _labels(frame), metric: [float(number.value) for number in numbers]})


def _finished(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted(folder.rglob("record.json")):
        record = tracking.read(file)
        if record is not None and record["status"] == "done":
            yield file.parent, record


def _labels(frame: pd.DataFrame) -> list[str]:
    keys = frame[["method", "base", "K", "depth", "variant"]]
    before = ["", "on ", "K=", "d=", ""]
    return [
        " ".join(f"{word}{value}" for word, value in zip(before, row, strict=True) if value)
        for row in keys.itertuples(index=False)
    ]
