"""The results of an epoch: its row of metrics.csv, the choice of the best, the check for divergence."""

from __future__ import annotations

import math
from typing import Any

from localsl.core.settings import LocalslError
from localsl.train.step import ModuleMeans


class Diverged(LocalslError):
    """A loss or weight is no longer finite. The process ends with exit code 3."""

    exit_code = 3
    alike = True


def better(best: dict[str, Any] | None, last: dict[str, Any], accuracy: str) -> dict[str, Any]:
    """The figures of the epoch with the higher accuracy; of equal ones the earlier."""
    return last if best is None or last[accuracy] > best[accuracy] else best


def check_finite(losses: list[float | None], figures: dict[str, float], epoch: int, lr: float) -> None:
    """Check the training loss of every module and the losses of the evaluation.

    Raises:
        Diverged: if one of them is not finite.
    """
    named = {f"loss of module {i}": loss for i, loss in enumerate(losses)}
    named |= {key.replace("_", " "): value for key, value in figures.items() if key.endswith("_loss")}
    for name, loss in named.items():
        if loss is not None and not math.isfinite(loss):
            what = f"the {name} is {loss} in epoch {epoch} at learning rate {lr:g}"
            raise Diverged(f"diverged: {what}; try a smaller optimizer.lr")


def without_none(**figures: float | None) -> dict[str, float]:
    """The figures that are not None: a task lacks some of them."""
    return {name: value for name, value in figures.items() if value is not None}


def metrics_row(
    epoch: int,
    lr: float,
    means: list[ModuleMeans],
    figures: dict[str, float],
    images_per_s: float,
) -> dict[str, Any]:
    """A row of metrics.csv; its training figures without a module's index are those of the output module."""
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
