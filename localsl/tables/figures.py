"""The papers' figures: sweeps/<paper>/figN.yaml names their runs and the analysis that draws them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from localsl.analysis import draw
from localsl.analysis.runner import analyse
from localsl.analysis.runs import Trained
from localsl.config.validation import compose
from localsl.core.settings import ConfigError, Problem
from localsl.execution import devices
from localsl.runs import stored
from localsl.tables.sweeps import Line

if TYPE_CHECKING:
    from localsl.tables.sweep_files import Table


def figure(table: Table, line: Line, folder: Path) -> tuple[dict[str, Any], list[Problem]]:
    """Draw a figure from its finished runs, to FOLDER/<paper>/figN.csv and .png.

    Returns:
        A row that describes the written files, and the problems for which a figure with runs cannot be drawn.
    """
    assert line.base is not None
    panels = _panels(table, line)
    row = {"table": table.name, "rows": len(table.cells), "measured": sum(map(len, panels))}
    if not panels:
        return row | {"written to": "nothing: no runs yet"}, []
    settings, device = compose(table.analysis).analysis, devices.chosen(line.base.device)
    try:
        written = analyse(folder / table.name, settings, table.title, panels, device)
    except ConfigError as error:
        return row | {"written to": "nothing: see below"}, error.problems
    return row | {"written to": f"{folder / table.name}{{{','.join(file.suffix for file in written)}}}"}, []


def redrawn(table: Table, folder: Path) -> Path | None:
    """Draw FOLDER/<paper>/figN.png again from its CSV file; return None if there is no such file."""
    csv_file = (folder / table.name).with_suffix(".csv")
    return (
        draw.redraw(csv_file, compose(table.analysis).analysis.kind, table.title) if csv_file.exists() else None
    )


def _panels(table: Table, line: Line) -> list[list[Trained]]:
    """The finished runs of a figure, grouped by data set and backbone."""
    assert line.request is not None
    labels = {
        overrides: f"{cell.label} {variation}".strip()
        for cell in table.cells
        for overrides, variation in zip(line.request.overrides(cell), _varied(line.request.typed), strict=True)
    }
    panels: dict[tuple[str, str], list[Trained]] = {}
    for job, cfg in zip(line.jobs, line.configs, strict=True):
        folder = stored.finished(cfg) if table.name in job.tables else None
        if folder is not None:
            run = Trained.of(folder, cfg, labels[job.overrides])
            panels.setdefault((cfg.dataset.name, cfg.backbone.name), []).append(run)
    return list(panels.values())


def _varied(typed: list[list[str]]) -> list[str]:
    """For each combination of overrides of the whole sweep, the overrides that not all combinations share."""
    shared = set.intersection(*map(set, typed))
    return [" ".join(override for override in each if override not in shared) for each in typed]
