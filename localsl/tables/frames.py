"""Results, and the runs behind them, as data frames for notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from localsl.published import numbers as published
from localsl.published.numbers import KEYS
from localsl.runs import stored
from localsl.runs.stored import Run
from localsl.tables.results import COLUMNS, setting

ROOT = Path(__file__).resolve().parent.parent.parent
NUMBERS = ["paper_mean", "paper_std", "ours_mean", "ours_std", "n", "difference", "best_mean", "best_std"]
RECORDED = ["id", "seed", "dataset", "backbone", "K", "method", "modules", "device"]
RECORDED += ["peak_memory_bytes", "peak_memory_scope"]


def results(folder: Path) -> pd.DataFrame:
    """The rows of all files FOLDER/<paper>/tableN.csv: each is a published number with one setting of runs.

    Keys and settings are strings, empty if a table does not have them; numbers are floats, NaN if missing. The
    columns are those of the files and:
        table: the name of the table, such as "man/table1".
        paper, ours: the value with its standard deviation as a string, also for values that are not numbers.
        label: the rule, base, K, depth and variant in words.
        setting: the setting of the runs in words, or the scope of a measurement; each one has its own row and mean.
    """
    frames = []
    for file in sorted(folder.glob("*/table*.csv"), key=lambda file: (file.parent, len(file.stem), file.stem)):
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
        frame.insert(0, "table", f"{file.parent.name}/{file.stem}")
        frames.append(frame)
    made = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["table", *COLUMNS])
    for name in ("paper", "ours"):
        mean, std = made[f"{name}_mean"], made[f"{name}_std"]
        made[name] = mean.where(std == "", mean + " ± " + std)
    made["label"] = _labels(made)
    made["setting"] = [setting(row) or row["measured_on"] for row in made.to_dict("records")]
    made[NUMBERS] = made[NUMBERS].apply(pd.to_numeric, errors="coerce")
    return made


def behind(made: pd.DataFrame) -> pd.DataFrame:
    """One row for each run behind each row of `results`, with the run's `id`."""
    return made.assign(id=made["runs"].str.split()).explode("id").dropna(subset="id")


def runs(folder: Path) -> pd.DataFrame:
    """One row for each finished classification run below `folder`: fields of its record, and `test_error`.

    The error is that of the last epoch, in per cent.
    """
    rows = [
        {key: record[key] for key in RECORDED} | {"test_error": 100 - record["last"]["test_accuracy"]}
        for record in (run.record for run in _finished(folder))
        if "test_accuracy" in record["last"]
    ]
    return pd.DataFrame(rows, columns=[*RECORDED, "test_error"]).drop_duplicates("id")


def epochs(folder: Path) -> pd.DataFrame:
    """The rows of metrics.csv of all finished runs below `folder`, with the `id` and `seed` of their run.

    Columns of single modules, of which there can be more than a hundred, are left out.
    """
    frames = {}
    for run in _finished(folder):
        if (run.folder / "metrics.csv").exists():
            frame = pd.read_csv(run.folder / "metrics.csv", usecols=lambda name: not name.startswith("module_"))
            frames[run.record["id"]] = frame.assign(id=run.record["id"], seed=run.record["seed"])
    if not frames:
        return pd.DataFrame(columns=["id", "seed", "epoch"])
    return pd.concat(list(frames.values()), ignore_index=True)


def printed(table: str, metric: str) -> pd.DataFrame:
    """The published numbers of one metric in a table such as "mlaan/table3", in a column named after the metric."""
    numbers = [number for number in published.read(table) if number.metric == metric]
    frame = pd.DataFrame([number.keys for number in numbers], columns=list(KEYS))
    return frame.assign(**{"label": _labels(frame), metric: [float(number.value) for number in numbers]})


def _finished(folder: Path) -> Iterator[Run]:
    for file in sorted(folder.rglob("record.json")):
        record = stored.read(file)
        if record is not None and record["status"] == "done":
            yield Run(file.parent, record)


def _labels(frame: pd.DataFrame) -> list[str]:
    keys = frame[["method", "base", "K", "depth", "variant"]]
    prefixes = ["", "on ", "K=", "d=", ""]
    return [
        " ".join(f"{prefix}{value}" for prefix, value in zip(prefixes, row, strict=True) if value)
        for row in keys.itertuples(index=False)
    ]
