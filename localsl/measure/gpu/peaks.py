"""The stage `memory`: the CUDA allocator's peaks and the traced ones, recorded as by `measure=memory`.

The allocator's peaks are measured first, in seconds. A trace takes up to a minute on a CPU and is made only for cells
without a recorded one: `-m measure=memory` can record them beforehand on any machine.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from localsl.execution import devices
from localsl.measure.footprint import Allocated, Footprint, allocated, footprint
from localsl.measure.gpu.cells import (
    NETWORKS,
    PEAKS,
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
from localsl.measure.kinds import memory_of
from localsl.measure.records import measured
from localsl.measure.runner import keep
from localsl.runs.display import mebibytes


def main(arguments: Sequence[str]) -> int:
    """Measure all cells; return 1 if one failed, DEVICE_LOST if the device is unusable, else 0."""
    args = stage_parser("peak memory of training steps").parse_args(arguments)
    cells, rows = Cells(args.work, args.device, args.setting), Rows(args.work / "memory.json")
    device, succeeded = devices.chosen(args.device), True
    networks = [""] if "backbone=" in args.setting else NETWORKS
    untraced = []
    for network in networks:
        for rule in select(PEAKS, args.rules):
            name = f"{label(rule)}  {label(network)}".strip()
            try:
                cfg = cells.config("memory", rule, network)
                clear(device)
                peak = allocated(cfg) if device.type == "cuda" else None
                known = measured(cfg)
                if known is None:
                    untraced.append((name, cfg, peak))
                    _report(rows, name, None, peak)
                else:
                    found = Footprint.recorded(known["figures"])
                    keep(cfg, memory_of(cfg, found, peak))
                    _report(rows, name, found, peak)
            except Exception as error:  # no error may stop the other cells
                succeeded = False
                _report_error(rows, name, "allocator", error)
                if device_lost(device):
                    return DEVICE_LOST
    for name, cfg, peak in untraced:
        try:
            found = footprint(cfg)
            keep(cfg, memory_of(cfg, found, peak))
            _report(rows, name, found, peak)
        except Exception as error:
            succeeded = False
            _report_error(rows, name, "traced", error)
    return 0 if succeeded else 1


def _report_error(rows: Rows, name: str, column: str, error: Exception) -> None:
    rows.set(name, **{column: reason(error)})
    print(f"{name}: {reason(error)}", flush=True)


def _report(rows: Rows, name: str, found: Footprint | None, peak: Allocated | None) -> None:
    figures = {"allocator": "" if peak is None else mebibytes(peak.peak)}
    figures["tensors"] = "" if peak is None else mebibytes(peak.live)
    if found is not None:
        figures |= {"traced": mebibytes(found.peak), "peak in": found.where}
        figures["ratio"] = "" if peak is None else f"{peak.live / found.peak:.3f}"
    rows.set(name, **figures)
    print(name, *(f"{key} {value}" for key, value in figures.items() if value), sep="  ", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
