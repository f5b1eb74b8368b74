"""The runs on the page: tables of configurations, with their curves folded below."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from itertools import groupby
from typing import Any

from localsl.analysis import names, palette
from localsl.published.numbers import KEYS
from localsl.runs import display, identity, provenance
from localsl.runs.stored import Run
from localsl.tables import results
from localsl.tables.report import curves, markup
from localsl.tables.report.curves import Axes, Curve
from localsl.tables.report.markup import FilterKeys, Html
from localsl.tables.results import Row
from localsl.train.task import score


@dataclass(frozen=True)
class Group:
    """Finished runs that differ in the seed only.

    Attributes:
        keys: the keys of the first table cell that they measure; empty if there is none.
        tables: the names of all tables that contain them.
        distinction: overrides that distinguish them from other groups of equal name.
    """

    runs: list[Run]
    keys: dict[str, str]
    tables: list[str]
    distinction: str = ""

    @cached_property
    def setting(self) -> str:
        """The setting of the runs in words; see `results.setting`."""
        record, values = self.runs[0].record, self.runs[0].values
        row = record | {"runs": record["id"], "measured_on": record["dataset"]}
        row |= {"train_images": record["images"]["train"], "batch_size": values["batch_size"]}
        return results.setting(row | {"lr": values["optimizer"]["lr"]})

    @cached_property
    def label(self) -> str:
        """The rule, its base and its depth, as in the columns of tables."""
        record, keys = self.runs[0].record, self.keys
        depth = f"d={keys['depth']}" if keys.get("depth") else ""
        return " ".join(filter(None, (record["method"], keys.get("base"), depth)))

    @cached_property
    def name(self) -> str:
        """A name in words that is unique within a panel."""
        record = self.runs[0].record
        several = f"K={record['K']}" if record["modules"] > 1 else ""
        return " ".join(
            filter(None, (names.rule(self.label), self.keys.get("variant"), several, self.distinction))
        )

    @property
    def panel(self) -> tuple[str, ...]:
        """The values that are equal for all groups drawn on the same axes."""
        record = self.runs[0].record
        return record["dataset"], record["backbone"], self.setting, record["peak_memory_scope"]

    @property
    def filter_keys(self) -> FilterKeys:
        """The values by which the page's filters select the group."""
        record = self.runs[0].record
        return FilterKeys(record["dataset"], record["backbone"], record["method"])

    @cached_property
    def curves(self) -> list[Curve]:
        """The curves of all runs of the group."""
        return [curve for run in self.runs for curve in curves.read(run.folder / "metrics.csv") if curve.points]

    @cached_property
    def peak(self) -> int:
        """The largest peak memory of the runs, in bytes; 0 if none was measured."""
        return max(run.record["peak_memory_bytes"] or 0 for run in self.runs)


def grouped(runs: Sequence[Run], made: dict[str, list[Row]]) -> list[Group]:
    """Group runs by configuration, with the tables that contain them."""
    places: dict[str, list[tuple[str, Row]]] = {}
    for table, rows in made.items():
        for row in rows:
            for run in row["runs"].split():
                places.setdefault(run, []).append((table, row))
    found: dict[Any, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.record["seed"], run.record["id"])):
        found.setdefault((run.signature, run.setting, run.record["peak_memory_scope"]), []).append(run)
    groups = []
    for same in found.values():
        shown = [place for run in same for place in places.get(run.record["id"], [])]
        keys = {key: shown[0][1][key] for key in KEYS} if shown else {}
        groups.append(Group(same, keys, list(dict.fromkeys(table for table, _ in shown))))
    return sorted(
        _distinguished(groups), key=lambda group: (group.panel, group.name, group.runs[0].record["id"])
    )


def _distinguished(groups: list[Group]) -> Iterator[Group]:
    """Yield the groups; those of equal name on a panel, and in no table, get the settings in which they differ."""
    alike: dict[tuple, list[Group]] = {}
    for group in groups:
        alike.setdefault((group.panel, group.name), []).append(group)
    for same in alike.values():
        values = [dict(identity.leaves(identity.identity(group.runs[0].values))) for group in same]
        keys = sorted({key for settings in values for key in settings} - {"seed"})
        differing = [key for key in keys if len({str(settings.get(key)) for settings in values}) > 1]
        for group, settings in zip(same, values, strict=True):
            distinction = " ".join(f"{key}={settings[key]}" for key in differing if key in settings)
            yield group if group.tables or len(same) == 1 else replace(group, distinction=distinction)


def articles(groups: list[Group], codes: dict[str, str]) -> Iterator[str]:
    """The HTML of the panels, one for each data set, backbone and setting."""
    for index, (shared, same) in enumerate(groupby(groups, lambda group: group.panel)):
        dataset, backbone, setting, scope = shared
        panel = list(same)
        records = [run.record for group in panel for run in group.runs]
        made_by = {record["device"]: None for record in records}
        made_by |= {f"torch {record['versions']['torch']}": None for record in records}
        made_by |= {f"commit {provenance.short(r['commit'])}": None for r in records if r["commit"]}
        title = f"{names.dataset(dataset)}, {names.backbone(backbone)}, {codes[setting]}"
        largest = max(1, *(group.peak for group in panel))
        lines = [_line(group, largest) for group in panel]
        drawn = "".join(_figures(panel, f"panel{index}"))
        plural = "configurations" if len(panel) > 1 else "configuration"
        summary = f'Curves of {len(panel)} {plural} <span class="count" data-all="{len(panel)}"></span>'
        yield f"<article><h3>{escape(title)}</h3>"
        yield markup.paragraphs(
            "about", f"{codes[setting]}: {setting}", "; ".join(made_by), f"peak memory: {scope}"
        )
        yield markup.grid(title, lines, [group.filter_keys for group in panel])
        yield f"{markup.folded(summary, drawn)}</article>\n"


def _line(group: Group, largest: int) -> dict[str, Any]:
    """The table row of a configuration, averaged over seeds; the memory bar is relative to `largest`."""
    dot = markup.rule(group.label).removesuffix(escape(names.rule(group.label)))
    row: dict[str, Any] = {"configuration": Html(dot + escape(group.name))}
    for name in ("last", "best"):
        values = [score(run.record[name]) for run in group.runs]
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        row[f"{name} epoch, test %"] = markup.mean(f"{statistics.mean(values):.2f}", spread)
    row |= {"n": len(group.runs), "modules": group.runs[0].record["modules"]}
    row["seconds"] = f"{statistics.mean(run.record['seconds'] for run in group.runs):.0f}"
    bar = f'<span class="track"><span style="width:{100 * group.peak / largest:.1f}%"></span></span>'
    row["peak memory"] = Html(escape(display.mebibytes(group.peak)) + bar)
    row["tables"] = Html(", ".join(markup.link(table, table) for table in group.tables))
    row["ids"] = " ".join(run.record["id"] for run in group.runs)
    return row


def _figures(panel: list[Group], name: str) -> Iterator[str]:
    """The drawings of each configuration in the colour of its rule, in front of all configurations in grey."""
    found: dict[str, list[Curve]] = {}
    for curve in (curve for group in panel for curve in group.curves):
        found.setdefault(curve.drawing, []).append(curve)
    axes = {drawing: Axes(f"{name}-{i}", curves) for i, (drawing, curves) in enumerate(found.items())}
    yield f'<svg class="defs" aria-hidden="true"><defs>{"".join(a.others for a in axes.values())}</defs></svg>'
    styles = palette.styles((group.label, group.runs[0].record["method"]) for group in panel)
    for group in panel:
        colour = f"--rule-colour:{styles[group.label].colour}"
        yield f'<figure class="run"{group.filter_keys} style="{colour}"><figcaption>{escape(group.name)}</figcaption>'
        for drawing in axes:
            own = [curve for curve in group.curves if curve.drawing == drawing]
            yield axes[drawing].svg(f"{group.name}: {drawing}", own) if own else ""
        yield "</figure>" if group.curves else "<p>There is no metrics.csv.</p></figure>"
