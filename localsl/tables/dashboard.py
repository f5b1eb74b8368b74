"""Create a W&B report of the papers' tables: accuracy by method, by module, and against memory.

    python -m localsl.tables.dashboard ENTITY/PROJECT             # all tables with training runs
    python -m localsl.tables.dashboard ENTITY/PROJECT man table3  # some tables, named as for sweep=

The report shows the runs that `sweep=... logger=wandb` logged to the project. It needs `pip install
wandb-workspaces` and a W&B login. W&B updates a saved report with runs logged later; every call of this command
creates a new report. A run that finished before it was tagged with a table is missing from that table's section.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from localsl.core.settings import LocalslError
from localsl.tables import sweep_files

# The panels of each table's section. Metrics are columns of metrics.csv, those of modules given by a pattern; a
# scatter plot uses keys of the summary, where W&B stores the record and the last value of each metric. Bars and lines
# are means over a group of runs.
PANELS: list[dict[str, Any]] = [
    {"kind": "bars", "title": "Test accuracy (%), last epoch", "metrics": ["test_accuracy"]},
    {"kind": "lines", "title": "Test accuracy (%)", "x": "epoch", "metrics": ["test_accuracy"]},
    {
        "kind": "lines",
        "title": "Training accuracy of each module (%)",
        "x": "epoch",
        "pattern": "module_[0-9]+_accuracy",
    },
    {
        "kind": "scatter",
        "title": "Test accuracy (%; 100 less the error) against peak memory (bytes)",
        "x": "peak_memory_bytes",
        "y": "test_accuracy",
    },
]

# Columns of the list of runs. The scope is shown because peaks of different scopes cannot be compared.
COLUMNS = ["test_accuracy", "peak_memory_bytes", "peak_memory_scope", "seconds"]

# The configuration keys that a table's overrides set by the name of a choice.
NAMES = {"dataset": "dataset.name", "backbone": "backbone.name", "method": "method.name", "aux_net": "aux.head"}
NAMES |= {"recipe": "recipe.name"}


@dataclass(frozen=True)
class Section:
    """The section of a table in the report.

    Attributes:
        tag: the tag of its runs.
        groups: configuration keys in which its cells differ, outermost first. Within them, runs are grouped by their
            W&B group, which is the configuration without the seed.
    """

    table: str
    title: str
    tag: str
    groups: list[str]


def sections(tables: Sequence[str]) -> list[Section]:
    """The sections of the given tables, in order, without tables that have no training runs."""
    found = []
    for table in map(sweep_files.read, tables):
        cells = [dict(o.split("=", 1) for o in cell.overrides) for cell in table.cells if cell.trains]
        keys = dict.fromkeys(key for cell in cells for key in cell)
        groups = [NAMES.get(key, key) for key in keys if len({cell.get(key) for cell in cells}) > 1]
        if cells:
            found.append(Section(table.name, table.title, table.name, groups))
    return found


def report(entity: str, project: str, shown: Sequence[Section]) -> Any:
    """Build the report as an object of wandb_workspaces, without saving it or looking anything up.

    Raises:
        LocalslError: if wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr  # pyright: ignore[reportMissingImports]
        from wandb_workspaces import expr  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise LocalslError("the report needs another package: pip install wandb-workspaces") from None

    blocks = []
    for section in shown:
        runs = wr.Runset(
            entity=entity,
            project=project,
            name=section.table,
            filters=expr.And(expr.Tags().isin([section.tag]), expr.Metric("State") == "finished"),
            groupby=[*(f"config.{key}" for key in section.groups), "Group"],
            pinned_columns=[f"summary:{key}" for key in COLUMNS],
        )
        grid = wr.PanelGrid(runsets=[runs], panels=[_panel(wr, panel) for panel in PANELS])
        blocks.append(wr.H2(f"{section.table}: {section.title}", collapsed_blocks=[grid]))
    return wr.Report(entity=entity, project=project, title="The papers' tables", blocks=blocks, width="fluid")


def _panel(wr: Any, panel: dict[str, Any]) -> Any:
    shared = {"title": panel["title"], "layout": wr.Layout(w=12, h=8)}
    if panel["kind"] == "bars":
        return wr.BarPlot(metrics=panel["metrics"], **shared)
    if panel["kind"] == "scatter":
        return wr.ScatterPlot(x=wr.SummaryMetric(panel["x"]), y=wr.SummaryMetric(panel["y"]), **shared)
    y = {"metric_regex": panel["pattern"]} if "pattern" in panel else {"y": panel["metrics"]}
    return wr.LinePlot(x=panel["x"], groupby_rangefunc="stddev", **y, **shared)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build and save the report of the tables named on the command line."""
    import wandb

    what = "Create a W&B report of the papers' tables."
    parser = argparse.ArgumentParser(prog="python -m localsl.tables.dashboard", description=what)
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="project that the runs were logged to")
    parser.add_argument("tables", nargs="*", default=["all"], help="man/table1, table1, man or all (default)")
    given = parser.parse_args(arguments)
    entity, slash, project = given.project.partition("/")
    if not (entity and slash and project):
        parser.error(f"{given.project!r} is not ENTITY/PROJECT, as in wandb.ai/ENTITY/PROJECT")
    try:
        names = dict.fromkeys(name for text in given.tables for name in sweep_files.named(text))
        shown = sections(list(names))
        if not shown:
            parser.error(f"no training runs belong to {', '.join(names)}")
        made = report(entity, project, shown)
        wandb.Api()  # raises a clear error if the login is missing, unlike saving the report
        print(made.save().url)
    except (LocalslError, wandb.Error, ValueError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
