"""The stage `speed`: step times of every rule on one network, in several ways of execution, as `measure=speed`.

In each way backpropagation is timed first and last instead of alternating with every rule: a GPU's speed is stable.
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
    clear,
    device_lost,
    label,
    reason,
    select,
    stage_parser,
)
from localsl.measure.gpu.stages import DEVICE_LOST
from localsl.measure.kinds import time_of
from localsl.measure.runner import keep
from localsl.measure.speed import WARM_UP, Speed, Trained, backpropagation, noise, quartiles, timed

BP = SPEEDS[0]


class DeviceLost(Exception):
    """The device is unusable for this process."""


@dataclass(frozen=True)
class Reference:
    """Backpropagation, which is timed again at the end of a column."""

    cfg: Command
    trained: Trained
    warm_up: list[float]
    steps: list[float]


class Column:
    """One way to execute steps, with a cell for each rule."""

    def __init__(self, name: str, cells: Cells, rows: Rows, device: torch.device, seconds: float):
        self._name, self._cells, self._rows = name, cells, rows
        self._device, self._seconds = device, seconds
        self._reference: Reference | None = None
        self.succeeded = True

    def measure(self, rules: Sequence[str], batches: Batches) -> None:
        """Time every rule, and backpropagation before and after them.

        Raises:
            DeviceLost: if an error makes the device unusable.
        """
        known = {rule: self._rows.text(label(rule), self._name) for rule in (BP, *rules)}
        if all(known.values()):  # measured by an earlier process
            return
        # Backpropagation is needed again as the reference, unless it failed before and may have lost the device.
        if not known[BP] or " ms (" in known[BP]:
            self._cell(BP, lambda: self._first(batches))
        for rule in rules:
            if rule != BP and not known[rule]:
                self._cell(rule, lambda rule=rule: self._rule(rule, batches))
        if self._reference is not None and not self._reference.cfg.compile:
            self._cell(BP, self._last)

    def _cell(self, rule: str, measure: Callable[[], str]) -> None:
        try:
            text = measure()
        except ConfigError as error:  # this rule does not support this way of execution, which is no failure
            text = reason(error)
        except Exception as error:  # no error may stop the other cells
            text, self.succeeded = reason(error), False
        self._rows.set(label(rule), **{self._name: text})
        print(f"{self._name:<10} {label(rule):<16} {text}", flush=True)
        if not self.succeeded and device_lost(self._device):
            raise DeviceLost
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
        return self._record(cfg, Speed(steps, steps, warm_up, 1.0, bp.compilations()))

    def _rule(self, rule: str, batches: Batches) -> str:
        cfg = self._config(rule)
        trained = Trained(cfg, batches.of(cfg), self._device)
        warm_up = trained.steps(WARM_UP[self._device.type])
        steps = timed(trained, self._device, self._seconds)
        if self._reference is None:  # not recorded, since a record needs the ratio to backpropagation
            return f"{quartiles(steps)[1]:.2f} ms"
        bp = self._reference.steps
        ratio = quartiles(steps)[1] / quartiles(bp)[1]
        return self._record(cfg, Speed(steps, bp, warm_up, ratio, trained.compilations()))

    def _last(self) -> str:
        first = self._reference
        assert first is not None
        first.trained.steps(WARM_UP[self._device.type])
        steps = timed(first.trained, self._device, self._seconds)
        ratio = quartiles(first.steps)[1] / quartiles(steps)[1]
        compiled = first.trained.compilations()
        return self._record(first.cfg, Speed(first.steps, steps, first.warm_up, ratio, compiled))

    def _record(self, cfg: Command, found: Speed) -> str:
        measurement = time_of(cfg, found)
        measurement.figures["in_turn"] = (
            False  # unlike `measure=speed`, steps do not alternate with backpropagation
        )
        keep(cfg, measurement)
        return f"{measurement.figures['ms_median']:.2f} ms ({found.ratio:.2f})"


class Batches:
    """Batches of noise on the device, created once for each memory layout."""

    def __init__(self, device: torch.device):
        self._device = device
        self._made: dict[torch.memory_format, TrainBatches] = {}

    def of(self, cfg: Command) -> TrainBatches:
        """The batches for a configuration."""
        layout = devices.layout(cfg)
        if layout not in self._made:
            self._made[layout] = TrainBatches(noise(cfg), cfg.dataset, cfg.batch_size, self._device, layout)
        return self._made[layout]


def main(arguments: Sequence[str]) -> int:
    """Measure all columns; return 1 if a cell failed, DEVICE_LOST if the device is unusable, else 0."""
    parser = stage_parser("milliseconds per training step")
    parser.add_argument("--columns", default=",".join(COLUMNS), help="ways of execution, such as fp32,bf16")
    parser.add_argument("--seconds", type=float, default=1.5, help="seconds for which each rule is timed")
    parser.add_argument(
        "--go-on", action="store_true", help="measure only what an earlier process has not measured"
    )
    args = parser.parse_args(arguments)
    rules = select(SPEEDS, args.rules)
    file = args.work / "speed.json"
    rows = Rows(file, map(label, dict.fromkeys([BP, *rules])))
    if args.go_on:
        rows.resume(read(file) or [])
    device = devices.chosen(args.device)
    cells, batches, succeeded = Cells(args.work, args.device, args.setting), Batches(device), True
    for name in args.columns.split(","):
        column = Column(name, cells, rows, device, args.seconds)
        try:
            column.measure(rules, batches)
        except DeviceLost:
            print("the device no longer responds", flush=True)
            return DEVICE_LOST
        succeeded = succeeded and column.succeeded
        del column
        clear(device)
    return 0 if succeeded else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
