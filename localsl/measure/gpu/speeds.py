"""The stage `speed`: every rule, executed in every way, on one network; written as `measure=speed` does.

Backpropagation is timed first and last in each way, and not in turn with every rule: a GPU's speed keeps still.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from localsl.config.command import Command
from localsl.core.settings import ConfigError
from localsl.data.batches import TrainBatches
from localsl.execution import devices
from localsl.measure.gpu.archive import read
from localsl.measure.gpu.cells import (
    COLUMNS,
    SPEED_NETWORK,
    SPEEDS,
    Cells,
    Rows,
    chosen,
    clear,
    label,
    lost,
    parser,
    reason,
)
from localsl.measure.gpu.stages import LOST
from localsl.measure.kinds import time_of
from localsl.measure.runner import keep
from localsl.measure.speed import WARM_UP, Speed, Trained, backpropagation, noise, quartiles, timed

BP = SPEEDS[0]


class Lost(Exception):
    """The device answers no more."""


@dataclass(frozen=True)
class Reference:
    """Backpropagation, kept to be timed again at a column's end."""

    cfg: Command
    trained: Trained
    warm_up: list[float]
    steps: list[float]


class Column:
    """One way to execute steps: cells down the rules."""

    def __init__(self, name: str, cells: Cells, rows: Rows, device: torch.device, seconds: float):
        self._name, self._cells, self._rows = name, cells, rows
        self._device, self._seconds = device, seconds
        self._reference: Reference | None = None
        self.well = True

    def measure(self, rules: Sequence[str], batches: Batches) -> None:
        """Every rule, backpropagation before them and after.

        Raises:
            Lost: if an error leaves the device of no use.
        """
        known = {rule: self._rows.text(label(rule), self._name) for rule in (BP, *rules)}
        if all(known.values()):  # by a process before
            return
        if not known[BP] or " ms (" in known[BP]:  # not what failed there: it may be what lost the device
            self._cell(BP, lambda: self._first(batches))
        for rule in rules:
            if rule != BP and not known[rule]:
                self._cell(rule, lambda rule=rule: self._rule(rule, batches))
        if self._reference is not None and not self._reference.cfg.compile:
            self._cell(BP, self._last)

    def _cell(self, rule: str, measured: Callable[[], str]) -> None:
        try:
            text = measured()
        except ConfigError as error:  # a rule that cannot be executed so, and is not meant to
            text = reason(error)
        except Exception as error:  # of any kind: the other cells are measured all the same
            text, self.well = reason(error), False
        self._rows.set(label(rule), **{self._name: text})
        print(f"{self._name:<10} {label(rule):<16} {text}", flush=True)
        if not self.well and lost(self._device):
            raise Lost
        clear(self._device)

    def _config(self, rule: str) -> Command:
        cfg = self._cells.config("speed", *COLUMNS[self._name], rule, SPEED_NETWORK)
        devices.use_threads(cfg)
        devices.prepare(self._device, cfg.deterministic, cfg.tf32)
        return replace(cfg, processes=1)

    def _first(self, batches: Batches) -> str:
        cfg = self._config(BP)
        bp = Trained(backpropagation(cfg), batches.of(cfg), self._device)
        warm_up = bp.steps(WARM_UP[self._device.type])
        steps = timed(bp, self._device, self._seconds)
        self._reference = Reference(cfg, bp, warm_up, steps)
        return self._told(cfg, Speed(steps, steps, warm_up, 1.0, bp.compilations()))

    def _rule(self, rule: str, batches: Batches) -> str:
        cfg = self._config(rule)
        trained = Trained(cfg, batches.of(cfg), self._device)
        warm_up = trained.steps(WARM_UP[self._device.type])
        steps = timed(trained, self._device, self._seconds)
        if self._reference is None:  # a `speed` record has a ratio
            return f"{quartiles(steps)[1]:.2f} ms"
        bp = self._reference.steps
        ratio = quartiles(steps)[1] / quartiles(bp)[1]
        return self._told(cfg, Speed(steps, bp, warm_up, ratio, trained.compilations()))

    def _last(self) -> str:
        first = self._reference
        assert first is not None
        first.trained.steps(WARM_UP[self._device.type])
        steps = timed(first.trained, self._device, self._seconds)
        ratio = quartiles(first.steps)[1] / quartiles(steps)[1]
        compiled = first.trained.compilations()
        return self._told(first.cfg, Speed(first.steps, steps, first.warm_up, ratio, compiled))

    def _told(self, cfg: Command, found: Speed) -> str:
        measurement = time_of(cfg, found)
        measurement.figures["in_turn"] = False  # as those of `measure=speed` are
        keep(cfg, measurement)
        return f"{measurement.figures['ms_median']:.2f} ms ({found.ratio:.2f})"


class Batches:
    """Noise on the device, made once for each memory layout."""

    def __init__(self, device: torch.device):
        self._device = device
        self._made: dict[torch.memory_format, TrainBatches] = {}

    def of(self, cfg: Command) -> TrainBatches:
        """Of a configuration."""
        layout = devices.layout(cfg)
        if layout not in self._made:
            self._made[layout] = TrainBatches(noise(cfg), cfg.dataset, cfg.batch_size, self._device, layout)
        return self._made[layout]


def main(arguments: Sequence[str]) -> int:
    """All columns; 1 if a cell failed."""
    made = parser("milliseconds a step")
    made.add_argument("--columns", default=",".join(COLUMNS))
    made.add_argument("--seconds", type=float, default=1.5, help="that a rule is timed for, its warm-up apart")
    made.add_argument("--go-on", action="store_true", help="with what an earlier process has not measured")
    typed = made.parse_args(arguments)
    rules = chosen(SPEEDS, typed.rules)
    file = typed.work / "speed.json"
    rows = Rows(file, map(label, dict.fromkeys([BP, *rules])))
    if typed.go_on:
        rows.resume(read(file) or [])
    device = devices.chosen(typed.device)
    cells, batches, well = Cells(typed.work, typed.device, typed.setting), Batches(device), True
    for name in typed.columns.split(","):
        column = Column(name, cells, rows, device, typed.seconds)
        try:
            column.measure(rules, batches)
        except Lost:
            print("the device answers no more", flush=True)
            return LOST
        well = well and column.well
        del column
        clear(device)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
