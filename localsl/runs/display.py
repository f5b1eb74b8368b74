"""What is shown of runs on a terminal: their progress, and tables of text."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from localsl.train.task import SCORES, score

T = TypeVar("T")


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
        what = next(name for key, name in SCORES.items() if key in row)
        held_out = f"validation {row['validation_accuracy']:.2f} %  " if "validation_accuracy" in row else ""
        told = f"loss {row['train_loss']:.4f}  {what} {score(row):.2f} %  {top5}{held_out}best {best:.2f} %"
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


def summary(runs: list[tuple[Path, dict[str, Any]]], told: list[dict[str, Any]] | None = None) -> str:
    """A table of runs from their records, and the files they wrote.

    Args:
        told: what else tells each run from the others, by the same names for all.
    """
    if not runs:
        return "no runs"
    rows = []
    for (_, record), more in zip(runs, told or [{}] * len(runs), strict=True):
        done = record["status"] == "done"
        rows.append(
            {
                "method": record["method"],
                "dataset": record["dataset"],
                "backbone": record["backbone"],
                "seed": record["seed"],
                **more,
                "modules": record["modules"] if done else "",
                "test %": f"{score(record['last']):.2f}" if done else record["status"],
                "best %": f"{score(record['best']):.2f}" if done else "",
                "peak memory": mebibytes(record["peak_memory_bytes"]) if done else "",
                "seconds": f"{record['seconds']:.1f}" if done else "",
                "id": record["id"],
            }
        )
    files = [f"{folder}/{{config.yaml,metrics.csv,record.json}}" for folder, r in runs if r["status"] == "done"]
    return "\n".join([table(rows), "", "Files:", *(f"  {file}" for file in files)])


def over_seeds(groups: list[list[tuple[dict[str, Any], dict[str, Any]]]]) -> str:
    """Mean and standard deviation of the last and best test accuracy of runs that differ in the seed alone.

    Args:
        groups: records of runs, each with what tells its group from others; groups of one done run are left out.
    """
    rows = []
    for group in groups:
        done = [record for record, _ in group if record["status"] == "done"]
        if len(done) < 2:
            continue
        row = {name: done[0][name] for name in ("method", "dataset", "backbone")} | group[0][1]
        row["seeds"] = len(done)
        for name in ("last", "best"):
            found = [score(record[name]) for record in done]
            row[f"{name} %"] = f"{statistics.fmean(found):.2f} ± {statistics.stdev(found):.2f}"
        rows.append(row)
    return f"mean and standard deviation over seeds:\n{table(rows)}" if rows else ""


def figures(found: dict[str, Any]) -> str:
    """A record's figures of one epoch in words."""
    if "ap_box" not in found:
        return f"test accuracy {found['test_accuracy']:.2f} %"
    boxes, masks = (
        ", ".join(f"{found[f'{name}_{kind}']:.2f}" for name in ("ap", "ap50", "ap75"))
        for kind in ("box", "mask")
    )
    return f"box AP, AP50, AP75 {boxes} %, of masks {masks} %"


def mebibytes(count: int | None) -> str:
    """Bytes as MiB."""
    return "not counted" if count is None else f"{count / 2**20:.1f} MiB"
