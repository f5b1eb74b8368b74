"""The rehearsal of every cell of tables and figures: one training step and one evaluation of each configuration.

OUTPUT_DIR/rehearsal.csv gets a row as soon as a configuration ends, so that an interrupted rehearsal can be resumed.
A rehearsal of all tables, figures and grids is copied to RESULTS_DIR.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib

from localsl.config.composition import Composition
from localsl.config.validation import compose
from localsl.core.settings import LocalslError
from localsl.execution import files
from localsl.execution.bounded import Outcome, call_each
from localsl.measure import rehearsal
from localsl.measure.rehearsal import Rehearsed
from localsl.runs import display, identity, provenance
from localsl.tables import sweep_files, sweeps
from localsl.tables.sweep_files import Cell
from localsl.tables.sweeps import Line, Request

if TYPE_CHECKING:
    from localsl.config.command import Command

FILE = "rehearsal.csv"
GIB = 2**30
MEMORY = 20 * GIB  # limit of a rehearsal; larger ones are traced without data
SECONDS = 900.0  # time limit of a rehearsal
AT_ONCE = 2
SUCCESSFUL = ("ok", "traced")  # results of rehearsals, before a colon

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A distinct configuration among the cells to rehearse.

    Attributes:
        id: the id of the configuration, independent of the seed.
        cell: the table and keys of the first cell with this configuration.
        tables: the names of all tables with this configuration.
        typed: the overrides of the configuration.
    """

    id: str
    cell: str
    tables: tuple[str, ...]
    typed: tuple[str, ...]


def rehearse(line: Line) -> str:
    """Rehearse the cells of a command line, and print a line as each ends.

    Returns:
        A summary of the results, which are printed as a table before.

    Raises:
        LocalslError: with the summary, if a cell failed.
    """
    assert line.request is not None
    assert line.base is not None
    file, commit = Path(line.base.output_dir) / FILE, provenance.short(provenance.commit())
    selected = parts(
        line.request, {job.overrides: cfg for job, cfg in zip(line.jobs, line.configs, strict=True)}
    )
    kept = {row["id"]: row for row in read(file) if _is_valid(row, commit)}
    # A row that is reused may have been written by the rehearsal of other tables.
    rows = {part.id: kept.pop(part.id) | _place(part) for part in selected if part.id in kept}
    left = [part for part in selected if part.id not in rows]
    print(f"{len(selected)} configurations, {len(left)} of them to rehearse", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    for row in _rehearsed(left, commit, _memory()):
        rows[row["id"]] = row
        files.write_csv(file, [*kept.values(), *rows.values()])
        print(f"{len(rows)}/{len(selected)} {_short_line(row)}", flush=True)
    ordered = [rows[part.id] for part in selected]
    every = {table.name for table in line.request.tables} == {
        *sweep_files.every(),
        *sweep_files.figures(),
        *sweep_files.grids(),
    }
    if every and not line.request.varied:
        file = Path(line.base.results_dir) / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_csv(file, ordered)
    table = display.table([_line(row) for row in ordered])
    count = Counter(str(row["result"]).split(":")[0] for row in ordered)
    failed = sum(not _succeeded(row) for row in ordered)
    print(table)
    counts = ", ".join(f"{n} {word}" for word, n in count.items() if word in SUCCESSFUL)
    summary = f"{len(ordered)} configurations: {counts}; {file}"
    if failed:
        raise LocalslError(f"{summary}; {failed} failed")
    return summary


def parts(request: Request, known: dict[tuple[str, ...], Command]) -> list[Part]:
    """The distinct configurations of the cells of tables and figures; `known` are already composed ones."""
    found: dict[str, Part] = {}
    composition = Composition()
    for table in request.tables:
        for cell in table.cells:
            name = " ".join(filter(None, (table.name, *cell.keys)))
            for overrides in request.overrides(cell):
                part_id = _id(cell, overrides, known, composition)
                part = found.setdefault(part_id, Part(part_id, name, (table.name,), overrides))
                if table.name not in part.tables:
                    found[part_id] = replace(part, tables=(*part.tables, table.name))
    return list(found.values())


def _id(
    cell: Cell, overrides: tuple[str, ...], known: dict[tuple[str, ...], Command], composition: Composition
) -> str:
    measured = (sweeps.measuring(overrides, measure) for measure in cell.measures)
    cfg = next((known[typed] for typed in (overrides, *measured) if typed in known), None)
    return identity.cell_id(cfg or compose(overrides, composition))


def _rehearsed(left: Sequence[Part], commit: str, memory: int) -> Iterator[Row]:
    """Rehearse configurations, two at a time, and yield a row for each.

    Those that run out of memory are repeated alone, and traced without data if they still do not fit.
    Args:
        memory: bytes of memory available to all rehearsals together.
    """
    at_once = min(AT_ONCE, joblib.cpu_count())
    passes: list[tuple[Callable[[Sequence[str]], Rehearsed], int, int]] = [
        (rehearsal.rehearse, at_once, min(MEMORY, memory // at_once)),
        (rehearsal.rehearse, 1, min(MEMORY, memory)),
        (rehearsal.trace, 1, memory),
    ]
    if passes[0][2] == passes[1][2]:
        del passes[1]
    for number, (function, workers, limit) in enumerate(passes, 1):
        imports = [rehearsal.__name__]
        typed, too_large = [list(part.typed) for part in left], list[Part]()
        for position, outcome in call_each(function, typed, workers, limit, SECONDS, imports):
            if outcome.out_of_memory and number < len(passes):
                too_large.append(left[position])
            else:
                yield _result_row(left[position], commit, outcome, passes[-2][2])
        left = too_large


def _result_row(part: Part, commit: str, outcome: Outcome, memory: int) -> Row:
    if outcome.value is None:
        print(outcome.trace, end="")
        return _row(part, commit, outcome.failure or "", outcome.seconds, outcome.peak)
    found: Rehearsed = outcome.value
    result = "ok" if found.traced is None else f"traced: needs more than {memory / GIB:.1f} GiB"
    return _row(part, commit, result, outcome.seconds, found.traced or outcome.peak, found)


def _row(
    part: Part, commit: str, result: str, seconds: float = 0, peak: int = 0, found: Rehearsed | None = None
) -> Row:
    counted = {"modules": "", "network": "", "auxiliary": ""} if found is None else asdict(found)
    return _place(part) | {
        "modules": counted["modules"],
        "network_parameters": counted["network"],
        "auxiliary_parameters": counted["auxiliary"],
        "cpu_seconds": f"{seconds:.1f}" if seconds else "",
        "peak_mib": f"{peak / 2**20:.0f}" if peak else "",
        "result": result,
        "commit": commit,
    }


def _place(part: Part) -> Row:
    """The columns of a row that say which configuration it has, and where it occurs."""
    return {
        "cell": part.cell,
        "also": " ".join(part.tables[1:]),
        "typed": " ".join(part.typed).replace(" show=rehearsal", ""),  # what starts the run itself
        "id": part.id,
    }


def read(file: Path) -> list[Row]:
    """The rows of a rehearsal's file; empty if the file does not exist."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def _is_valid(row: Row, commit: str) -> bool:
    """Whether a row is still valid: it succeeded, with exactly the present code."""
    return row["commit"] == commit != "" and not commit.endswith("+") and _succeeded(row)


def _succeeded(row: Row) -> bool:
    return row["result"].split(":")[0] in SUCCESSFUL


def _short_line(row: Row) -> str:
    return "  ".join(str(value) for value in _line(row).values())


def _line(row: Row) -> Row:
    names = ("cell", "network_parameters", "auxiliary_parameters", "cpu_seconds", "peak_mib", "result")
    return {name: row[name] for name in names}


def _memory() -> int:
    """The size of this machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
