"""What an epoch found: its line of metrics.csv, whether it is the best, and whether all of it is finite."""

from __future__ import annotations

import math
from typing import Any

from localsl.core.settings import LocalslError
from localsl.train.step import ModuleMeans


class Diverged(LocalslError):
    """A loss is no longer a finite number. Exit code 3."""

    exit_code = 3
    alike = True


def better(best: dict[str, Any] | None, last: dict[str, Any], accuracy: str) -> dict[str, Any]:
    """The figures of the better epoch; of equal ones the earlier."""
    return last if best is None or last[accuracy] > best[accuracy] else best


def check_finite(losses: list[float | None], figures: dict[str, float], epoch: int, lr: float) -> None:
    """Of every module in training, and of the network in evaluation."""
    named = {f"loss of module {i}": loss for i, loss in enumerate(losses)}
    named |= {key.replace("_", " "): value for key, value in figures.items() if key.endswith("_loss")}
    for name, loss in named.items():
        if loss is not None and not math.isfinite(loss):
            what = f"the {name} is {loss} in epoch {epoch} at learning rate {lr:g}"
            raise Diverged(f"diverged: {what}; try a smaller optimizer.lr")


def known(**figures: float | None) -> dict[str, float]:
    """Without figures that a task has none of."""
    return {name: value for name, value in figures.items() if value is not None}


def line(
    epoch: int,
    lr: float,
    means: list[ModuleMeans],
    figures: dict[str, float],
    images_per_s: float,
) -> dict[str, Any]:
    """A line of metrics.csv; training figures without a number are the output module's."""
    row = {
        "epoch": epoch,
        "lr": lr,
        "train_loss": means[-1].loss,
        "train_accuracy": means[-1].accuracy,
        **figures,
        "images_per_s": images_per_s,
    }
    for index, mean in enumerate(means):
        row[f"module_{index}_loss"] = mean.loss
        row[f"module_{index}_accuracy"] = mean.accuracy
    return row
