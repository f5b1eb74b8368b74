"""The display of runs on a terminal: progress, and tables of text."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from localsl.train.task import SCORES, score

if TYPE_CHECKING:
    from localsl.runs.stored import Run

T = TypeVar("T")


class Progress:
    """A progress bar with the remaining time on a terminal, and one line per epoch elsewhere.

    The bar is written to stderr.
    """

    def __init__(self, epochs: int, steps: int, done: int = 0, shown: bool = True):
        """Create a bar of `epochs` times `steps` steps, of which `done` are done; if not `shown`, it stays hidden."""
        self._epochs = epochs
        terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(total=epochs * steps, initial=done, unit="step", disable=not terminal, leave=False)

    def steps(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches, and count each one as a step after its use."""
        for batch in batches:
            yield batch
            self._bar.update()

    def epoch(self, row: dict[str, Any], best: float) -> None:
        """Show the figures of an epoch."""
        top5 = f"top-5 {row['test_top5_accuracy']:.2f} %  " if "test_top5_accuracy" in row else ""
        what = next(name for key, name in SCORES.items() if key in row)
        held_out = f"validation {row['validation_accuracy']:.2f} %  " if "validation_accuracy" in row else ""
        text = f"loss {row['train_loss']:.4f}  {what} {score(row):.2f} %  {top5}{held_out}best {best:.2f} %"
        if self._bar.disable:
            width = len(str(self._epochs))
            speed = f"{row['images_per_s']:.0f} images/s"
            print(
                f"epoch {row['epoch']:{width}}/{self._epochs}  lr {row['lr']:.4f}  {text}  {speed}",
                flush=True,
            )
        else:
            self._bar.set_description_str(f"epoch {row['epoch']}")
            self._bar.set_postfix_str(text)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def table(rows: list[dict[str, Any]]) -> str:
    """Format rows with equal keys as aligned text, with numbers aligned to the right."""
    head = list(rows[0])
    cells = [[str(row[key]) for key in head] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    right = [isinstance(rows[0][key], int | float) for key in head]

    def line(values: list[str]) -> str:
        parts = (v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join(line(values) for values in [head, *cells])


def summary(runs: Sequence[Run], distinctions: list[dict[str, Any]] | None = None) -> str:
    """A table of runs, made from their records, followed by the files of the finished ones.

    Args:
        distinctions: for each run, further columns that distinguish it from others; the same names for all.
    """
    if not runs:
        return "no runs"
    rows = []
    for run, columns in zip(runs, distinctions or [{}] * len(runs), strict=True):
        record, done = run.record, run.record["status"] == "done"
        rows.append(
            {
                "method": record["method"],
                "dataset": record["dataset"],
                "backbone": record["backbone"],
                "seed": record["seed"],
                **columns,
                "modules": record["modules"] if done else "",
                "test %": f"{score(record['last']):.2f}" if done else record["status"],
                "best %": f"{score(record['best']):.2f}" if done else "",
                "peak memory": mebibytes(record["peak_memory_bytes"]) if done else "",
                "seconds": f"{record['seconds']:.1f}" if done else "",
                "id": record["id"],
            }
        )
    done = [run.folder for run in runs if run.record["status"] == "done"]
    files = [f"  {folder}/{{config.yaml,metrics.csv,record.json}}" for folder in done]
    return "\n".join([table(rows), *(["", "Files:", *files] if files else [])])


def over_seeds(groups: list[list[tuple[dict[str, Any], dict[str, Any]]]]) -> str:
    """Mean and standard deviation of the last and best test accuracy, over runs that differ only in the seed.

    Args:
        groups: for each group of such runs their records, each with further columns that distinguish the group.
            Groups with fewer than two finished runs are left out.
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
    """The test figures of an epoch in a record, in words."""
    if "ap_box" not in found:
        return f"test accuracy {found['test_accuracy']:.2f} %"
    boxes, masks = (
        ", ".join(f"{found[f'{name}_{kind}']:.2f}" for name in ("ap", "ap50", "ap75"))
        for kind in ("box", "mask")
    )
    return f"box AP, AP50, AP75 {boxes} %, mask AP, AP50, AP75 {masks} %"


def mebibytes(count: int | None) -> str:
    """A number of bytes in MiB, or "not counted"."""
    return "not counted" if count is None else f"{count / 2**20:.1f} MiB"
