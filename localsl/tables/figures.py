"""Figures of the papers: sweeps/<paper>/figN.yaml says of which runs, and what of them is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from localsl.analysis import draw
from localsl.analysis.runner import analyse
from localsl.analysis.runs import Trained
from localsl.config.validation import compose
from localsl.core.settings import ConfigError, Problem
from localsl.execution import devices
from localsl.runs import tracking
from localsl.tables.sweeps import Line

if TYPE_CHECKING:
    from localsl.tables.sweeps import Table


def figure(asked: Table, line: Line, folder: Path) -> tuple[dict[str, Any], list[Problem]]:
    """Draw a figure of those of its runs that are done, to FOLDER/<paper>/figN.csv and .png.

    Returns:
        a line that tells what was written, and what keeps the figure from being drawn though it has runs.
    """
    assert line.base is not None
    panels = _panels(asked, line)
    told = {"table": asked.name, "rows": len(asked.cells), "measured": sum(map(len, panels))}
    if not panels:
        return told | {"written to": "nothing: no runs yet"}, []
    settings, device = compose(asked.analysis).analysis, devices.chosen(line.base.device)
    try:
        written = analyse(folder / asked.name, settings, asked.title, panels, device)
    except ConfigError as error:
        return told | {"written to": "nothing: see below"}, error.problems
    return told | {"written to": f"{folder / asked.name}{{{','.join(file.suffix for file in written)}}}"}, []


def redrawn(asked: Table, folder: Path) -> Path | None:
    """Draw FOLDER/<paper>/figN.png again from the CSV beside it; None where there is no such file."""
    table = (folder / asked.name).with_suffix(".csv")
    return draw.redraw(table, compose(asked.analysis).analysis.kind, asked.title) if table.exists() else None


def _panels(asked: Table, line: Line) -> list[list[Trained]]:
    """The finished runs of a figure, those of one data set and backbone together."""
    assert line.request is not None
    labels = {
        overrides: f"{cell.label} {more}".strip()
        for cell in asked.cells
        for overrides, more in zip(line.request.overrides(cell), _varied(line.request.typed), strict=True)
    }
    panels: dict[tuple[str, str], list[Trained]] = {}
    for job, cfg in zip(line.jobs, line.configs, strict=True):
        folder = tracking.finished(cfg) if asked.name in job.tables else None
        if folder is not None:
            run = Trained(folder, cfg, labels[job.overrides])
            panels.setdefault((cfg.dataset.name, cfg.backbone.name), []).append(run)
    return list(panels.values())


def _varied(typed: list[list[str]]) -> list[str]:
    """Of each combination that was typed for the whole sweep, what the others do not share."""
    shared = set.intersection(*map(set, typed))
    return [" ".join(override for override in each if override not in shared) for each in typed]
