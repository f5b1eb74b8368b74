"""The results of a table: a row per published number and setting of runs, with ours beside the paper's.

Runs with different settings (schedule, batch size, images ...) have different rows. Numbers without runs have one row
with empty cells.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localsl.config.composition import field_of
from localsl.config.fields import effect, leaves
from localsl.data import sources
from localsl.measure.records import TIMES, allocated_bytes, costly, everywhere
from localsl.published.numbers import KEYS, Number
from localsl.runs import provenance
from localsl.runs.stored import Run
from localsl.tables import records, reductions, structures, sweeps
from localsl.tables.sweep_files import MEASURED_ALONE, MEASURED_BY_TRAINING, Cell, Table
from localsl.tables.sweeps import Request

if TYPE_CHECKING:
    from localsl.config.command import Command

COLUMNS = [*KEYS, "metric", "paper_mean", "paper_std", "ours_mean", "ours_std", "n", "difference"]
COLUMNS += [
    *reductions.COLUMNS.values(),
    "best_mean",
    "best_std",
    "status",
    "measured_on",
    "schedule",
    "epochs",
    "batch_size",
    "lr",
]
COLUMNS += ["precision", "train_images", "test_images", "modules", "runs", "device", "torch", "commit", "note"]

# In a row's measured_on, this precedes overrides typed in addition to those of the cell, which may change the cost.
TYPED_PREFIX = "; typed: "

# The published note on memory summed over all GPUs; other numbers and all records are those of one process.
SUMMED = "summed over GPUs"

# The prefix of the status of a row whose runs had fewer epochs or images than its cell asks for.
SHORTENED = "shortened: "

# The prefix of the status of a row whose runs used an earlier default of its cell (`Cell.formerly`).
EARLIER = "earlier form: "

Row = dict[str, Any]


@dataclass(frozen=True)
class Composed:
    """Requested tables, with the composed configurations of their runs, without seeds."""

    request: Request
    configs: dict[tuple[str, ...], Command]

    def of(self, cell: Cell) -> list[Command]:
        """The configurations of a cell's runs."""
        return [self.configs[o] for o in self.request.overrides(cell) if o in self.configs]

    def formerly(self, cell: Cell) -> list[Command]:
        """The configurations of a cell's runs with its earlier default; empty if there is none."""
        return [self.configs[o] for o in self.request.former_overrides(cell) if o in self.configs]

    def measuring(self, cell: Cell, measure: str) -> Iterator[tuple[Command, str]]:
        """The configurations that measure a cell, each with the typed overrides that change its cost."""
        for overrides, typed in zip(self.request.overrides(cell), self.request.typed, strict=True):
            cfg = self.configs.get(sweeps.measuring(overrides, measure))
            if cfg is not None:
                yield cfg, " ".join(override for override in typed if costly(field_of(override), measure))


def rows(table: Table, composed: Composed, runs: Sequence[Run]) -> list[Row]:
    """The rows of a table: each published number, in the order of the cells, with every setting of its runs."""
    made = []
    shown: dict[frozenset[str], str] = {}  # the data set of the first cell with these runs
    for cell in table.cells:
        present = {records.signature(cfg): cfg for cfg in composed.of(cell)}
        own = frozenset(present)
        if own and shown.setdefault(own, cell.dataset) != cell.dataset:
            made += [_standing_in(number, cell, shown[own]) for number in cell.numbers]
            continue
        earlier = {records.signature(cfg): cfg for cfg in composed.formerly(cell)}
        full = present | earlier
        settings = _by_setting(cell, present, runs)
        seeds = {group[0].setting: len(group) for group in settings}
        former = _by_setting(cell, earlier, runs)
        former = [group for group in former if len(group) > seeds.get(group[0].setting, 0)]
        for number in cell.numbers:
            measure = MEASURED_ALONE.get(number.metric)
            costs = list(composed.measuring(cell, measure)) if measure else []
            of_cell = _rows_of(number, cell, table.seeds_of(cell), settings, costs, full)
            if former and number.metric in MEASURED_BY_TRAINING:
                of_former = [
                    _marked(row, cell)
                    for row in _rows_of(number, cell, table.seeds_of(cell), former, costs, full)
                ]
                of_cell = [*of_cell, *of_former] if settings else of_former
            made += of_cell
    return reductions.add(made)


def _standing_in(number: Number, cell: Cell, dataset: str) -> Row:
    """The row of a cell whose runs are another cell's, because one data set stands in for those of both."""
    row = _empty(number, cell)
    remark = f"the runs are those of the row of {dataset}: one data set stands in for both"
    return row | {"status": "stand-in", "note": "; ".join(filter(None, (row["note"], remark)))}


def _empty(number: Number, cell: Cell) -> Row:
    row = dict.fromkeys(COLUMNS, "") | dict(zip(KEYS, number.keys, strict=True))
    row |= {"metric": number.metric, "paper_mean": number.value, "paper_std": number.std}
    return row | {"note": "; ".join(filter(None, (number.note, cell.note)))}


def _by_setting(cell: Cell, signatures: Collection[str], runs: Sequence[Run]) -> list[list[Run]]:
    found: dict[Any, list[Run]] = {}
    for run in runs:
        if run.signature in signatures and _has_fixed_setting(cell, run):
            found.setdefault((run.signature, run.setting), []).append(run)
    return [sorted(found[key], key=lambda run: run.record["seed"]) for key in sorted(found)]


def _has_fixed_setting(cell: Cell, run: Run) -> bool:
    """Whether a run with schedule=paper has the setting (recipe, epochs, batch size) that the cell fixes.

    Runs with other schedules may have any setting.
    """
    if run.record["schedule"] != "paper":
        return True
    given = dict(leaves(run.values))
    typed = dict(override.split("=", 1) for override in (*cell.defaults, *cell.overrides))
    fixed = {key: value for key, value in typed.items() if key in given and effect(key).setting}
    fixed |= {"recipe.name": typed["recipe"]} if "recipe" in typed else {}
    return all(str(given.get(key)) == value for key, value in fixed.items())


def _rows_of(
    number: Number,
    cell: Cell,
    seeds: int,
    settings: list[list[Run]],
    costs: list[tuple[Command, str]],
    full: dict[str, Command],
) -> list[Row]:
    row = _empty(number, cell)
    if number.metric == "structure":
        return [row | {"ours_mean": structures.of_stage(cell), "status": "done"}]
    if number.metric in MEASURED_ALONE:
        found: list[tuple[dict[str, Any], str]] = []
        for measurement in ((record, typed) for cfg, typed in costs for record in everywhere(cfg)):
            found += [] if measurement in found else [measurement]
        measured = [row | _result_of_measurement(number, *measurement) for measurement in found]
        return measured or [row | {"status": "missing"}]
    accuracy = MEASURED_BY_TRAINING.get(number.metric)
    if accuracy is None or (settings and accuracy not in settings[0][0].record["last"]):
        return [row | {"status": "not measured"}]
    if not settings:
        return [row | {"status": "missing"}]
    return [
        row | _result_of_runs(number, seeds, runs, full[runs[0].signature]) | _started_from(row, runs[0])
        for runs in settings
    ]


def _started_from(row: Row, run: Run) -> Row:
    """The note of a row, extended by the run of the backbone that the row's runs started from."""
    backbone = run.record.get("backbone_run")
    origin = f"on the backbone of run {backbone}" if backbone else ""
    return {"note": "; ".join(filter(None, (row["note"], origin)))}


def _marked(row: Row, cell: Cell) -> Row:
    """Mark a row as one of runs with the cell's earlier default."""
    remark = f"run with {' '.join(cell.formerly)}, an earlier default"
    note = "; ".join(filter(None, (row["note"], remark)))
    return row | {"status": f"{EARLIER}{row['status']}", "note": note}


def _result_of_runs(number: Number, seeds: int, runs: list[Run], full: Command) -> Row:
    first, accuracy = runs[0], MEASURED_BY_TRAINING[number.metric]
    last = [_value(number.metric, run.record["last"][accuracy]) for run in runs]
    best = [_value(number.metric, run.record["best"][accuracy]) for run in runs]
    mean = statistics.mean(last)
    return {
        "ours_mean": f"{mean:.2f}",
        "ours_std": _spread(last),
        "n": len(runs),
        "difference": f"{mean - float(number.value):+.2f}",
        "best_mean": f"{statistics.mean(best):.2f}",
        "best_std": _spread(best),
        "status": _status(len(runs), seeds, first, full),
        "measured_on": first.record["dataset"],
        "schedule": _joined(run.record["schedule"] for run in runs),
        "epochs": first.record["epochs"],
        "batch_size": first.values["batch_size"],
        "lr": first.values["optimizer"]["lr"],
        "precision": first.record["precision"],
        "train_images": first.record["images"]["train"],
        "test_images": first.record["images"]["test"],
        "modules": first.record["modules"],
        "runs": " ".join(run.record["id"] for run in runs),
        "device": _joined(run.record["device"] for run in runs),
        "torch": _joined(run.record["versions"]["torch"] for run in runs),
        "commit": _joined(provenance.short(run.record["commit"]) for run in runs),
    }


def _status(count: int, seeds: int, run: Run, full: Command) -> str:
    """Whether the runs of a row are all and at full length, and otherwise what is missing."""
    images = sources.training_images(full.dataset)
    shorter = []
    if run.record["epochs"] < full.schedule.epochs:
        shorter.append(f"{run.record['epochs']} of {full.schedule.epochs} epochs")
    if run.record["images"]["train"] < images:
        shorter.append(f"{run.record['images']['train']:,} of {images:,} images")
    fewer = [] if count >= seeds else [f"{count} of {seeds} seeds"]
    return f"{SHORTENED}{', '.join([*shorter, *fewer])}" if shorter else "".join(fewer) or "done"


def _result_of_measurement(number: Number, record: dict[str, Any], typed: str) -> Row:
    value, scope = VALUES[number.metric](record)
    processes = record.get("processes") or 1  # missing in the earliest records
    if number.note == SUMMED and processes > 1:
        value, scope = value * processes, f"{scope}, per process, times {processes} processes"
    return {
        "ours_mean": f"{value:.2f}",
        "difference": f"{value - float(number.value):+.2f}",
        "status": "done",
        "measured_on": f"{record['measure']}: {scope}" + (f"{TYPED_PREFIX}{typed}" if typed else ""),
        "batch_size": record["batch_size"],
        "precision": record["precision"],
        "modules": record.get("modules", ""),  # missing in the earliest records
        "device": record["device"],
        "torch": record["versions"]["torch"],
        "commit": provenance.short(record["commit"]),
    }


def _memory(record: dict[str, Any]) -> tuple[float, str]:
    """Peak memory in units of 10^9 bytes, as in the released code, and its scope.

    The papers report GPU memory, so that the CUDA allocator's peak is preferred over traced live bytes.
    """
    on_gpu = allocated_bytes(record)
    if on_gpu is None:
        return record["figures"]["peak_bytes"] / 1e9, record["scope"]
    return on_gpu / 1e9, f"CUDA allocator's peak of the second training step on {record['device']}"


def _operations(record: dict[str, Any]) -> tuple[float, str]:
    """Operations in units of 10^9 multiply-adds, and their scope."""
    return record["figures"]["papers"] / 1e9, record["scope"]


def _overhead(record: dict[str, Any]) -> tuple[float, str]:
    """The extra time of a training step over backpropagation's, in per cent, and its scope."""
    scope = "median ratio of a training step's time to backpropagation's, measured in turn"
    scope += f", batch size {record['batch_size']}, {record['device']}"
    scope += f", {record['threads']} thread{'s' if record['threads'] > 1 else ''}"
    return 100 * (record["figures"]["ratio_to_bp"] - 1), scope


# For each metric, the function that reads its value in the papers' units, and its scope, from a record.
VALUES: dict[str, Callable[[dict[str, Any]], tuple[float, str]]] = {
    "gpu_memory_gb": _memory,
    "flops_g": _operations,
    "wallclock_overhead_pct": _overhead,
}


def _value(metric: str, accuracy: float) -> float:
    return 100 - accuracy if metric.endswith("_error_pct") else accuracy


def _spread(values: list[float]) -> str:
    """The sample standard deviation, as text; empty for a single value."""
    return f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""


def _joined(values: Any) -> str:
    return "; ".join(dict.fromkeys(values))


def setting(row: Row) -> str:
    """The setting of a row in words; empty if all measurements of its number are alike."""
    if not row["runs"]:
        apart = MEASURED_ALONE.get(row["metric"]) in TIMES or TYPED_PREFIX in row["measured_on"]
        return row["measured_on"] if apart else ""
    images = f"{row['train_images']} training images of {row['measured_on']}"
    batch = f"batch size {row['batch_size']}, learning rate {row['lr']}, {row['precision']}"
    return f"schedule={row['schedule']} with {row['epochs']} epochs, {images}, {batch}"
