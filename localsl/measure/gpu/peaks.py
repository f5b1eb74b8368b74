"""The stage `memory`: the CUDA allocator's peaks beside the traced ones, written as `measure=memory` does.

The allocator's peaks come first, in seconds. A trace, which takes up to a minute of a processor, is made only
where none is known: `-m measure=memory` makes them beforehand, on any machine.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from localsl.execution import devices
from localsl.measure.footprint import Allocated, Footprint, allocated, footprint
from localsl.measure.gpu.cells import NETWORKS, PEAKS, Cells, Rows, chosen, clear, label, lost, parser, reason
from localsl.measure.gpu.stages import LOST
from localsl.measure.kinds import GIB, memory_of
from localsl.measure.records import measured
from localsl.measure.runner import keep


def main(arguments: Sequence[str]) -> int:
    """All cells; 1 if one failed."""
    typed = parser("peaks of training steps").parse_args(arguments)
    cells, rows = Cells(typed.work, typed.device, typed.setting), Rows(typed.work / "memory.json")
    device, well = devices.chosen(typed.device), True
    networks = [""] if "backbone=" in typed.setting else NETWORKS
    untraced = []
    for network in networks:
        for rule in chosen(PEAKS, typed.rules):
            name = f"{label(rule)}  {label(network)}".strip()
            try:
                cfg = cells.config("memory", rule, network)
                clear(device)
                peak = allocated(cfg) if device.type == "cuda" else None
                known = measured(cfg)
                if known is None:
                    untraced.append((name, cfg, peak))
                    _tell(rows, name, None, peak)
                else:
                    found = Footprint.recorded(known["figures"])
                    keep(cfg, memory_of(cfg, found, peak))
                    _tell(rows, name, found, peak)
            except Exception as error:  # of any kind: the other cells are measured all the same
                well = _failed(rows, name, "allocator", error)
                if lost(device):
                    return LOST
    for name, cfg, peak in untraced:
        try:
            found = footprint(cfg)
            keep(cfg, memory_of(cfg, found, peak))
            _tell(rows, name, found, peak)
        except Exception as error:
            well = _failed(rows, name, "traced", error)
    return 0 if well else 1


def _failed(rows: Rows, name: str, column: str, error: Exception) -> bool:
    """Say so in the cell; false."""
    rows.set(name, **{column: reason(error)})
    print(f"{name}: {reason(error)}", flush=True)
    return False


def _tell(rows: Rows, name: str, found: Footprint | None, peak: Allocated | None) -> None:
    figures = {"allocator": "" if peak is None else f"{peak.peak / GIB:.3f} GiB"}
    figures["tensors"] = "" if peak is None else f"{peak.live / GIB:.3f} GiB"
    if found is not None:
        figures |= {"traced": f"{found.peak / GIB:.3f} GiB", "peak in": found.where}
        figures["ratio"] = "" if peak is None else f"{peak.live / found.peak:.3f}"
    rows.set(name, **figures)
    print(name, *(f"{key} {value}" for key, value in figures.items() if value), sep="  ", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
