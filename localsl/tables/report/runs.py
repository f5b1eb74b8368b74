"""The runs on the page: configurations side by side, and their curves folded below."""

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
from localsl.tables import render
from localsl.tables.records import Run
from localsl.tables.render import Row
from localsl.tables.report import curves, markup
from localsl.tables.report.curves import Axes, Curve
from localsl.tables.report.markup import Html, Of
from localsl.train.task import score


@dataclass(frozen=True)
class Group:
    """Finished runs that differ in their seeds only.

    Attributes:
        keys: of the first cell that they are measured for; empty if there is none.
        tables: the names of all tables that show them.
        apart: what tells them from others of equal name, as it is typed.
    """

    runs: list[Run]
    keys: dict[str, str]
    tables: list[str]
    apart: str = ""

    @cached_property
    def told(self) -> str:
        """Their setting in words, as `render.setting`."""
        record, values = self.runs[0].record, self.runs[0].values
        row = record | {"runs": record["id"], "measured_on": record["dataset"]}
        row |= {"train_images": record["images"]["train"], "batch_size": values["batch_size"]}
        return render.setting(row | {"lr": values["optimizer"]["lr"]})

    @cached_property
    def label(self) -> str:
        """The rule, its base and its depth."""
        record, keys = self.runs[0].record, self.keys
        depth = f"d={keys['depth']}" if keys.get("depth") else ""
        return " ".join(filter(None, (record["method"], keys.get("base"), depth)))

    @cached_property
    def name(self) -> str:
        """What tells them apart on a panel, in words."""
        record = self.runs[0].record
        several = f"K={record['K']}" if record["modules"] > 1 else ""
        return " ".join(filter(None, (names.rule(self.label), self.keys.get("variant"), several, self.apart)))

    @property
    def panel(self) -> tuple[str, ...]:
        """What is shared by all that is drawn on the same axes."""
        record = self.runs[0].record
        return record["dataset"], record["backbone"], self.told, record["peak_memory_scope"]

    @property
    def of(self) -> Of:
        """What the page's filters go by."""
        record = self.runs[0].record
        return Of(record["dataset"], record["backbone"], record["method"])

    @cached_property
    def curves(self) -> list[Curve]:
        """All that is drawn of them."""
        return [curve for run in self.runs for curve in curves.read(run.folder / "metrics.csv") if curve.points]

    @cached_property
    def peak(self) -> int:
        """Of memory, in bytes."""
        return max(run.record["peak_memory_bytes"] or 0 for run in self.runs)


def grouped(runs: Sequence[Run], made: dict[str, list[Row]]) -> list[Group]:
    """The runs by configuration, with the tables that show them."""
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
    return sorted(_told_apart(groups), key=lambda group: (group.panel, group.name, group.runs[0].record["id"]))


def _told_apart(groups: list[Group]) -> Iterator[Group]:
    """Groups of equal name on a panel with the settings in which they differ, but those of the table's own cell."""
    alike: dict[tuple, list[Group]] = {}
    for group in groups:
        alike.setdefault((group.panel, group.name), []).append(group)
    for same in alike.values():
        values = [dict(identity.leaves(identity.identity(group.runs[0].values))) for group in same]
        keys = sorted({key for one in values for key in one} - {"seed"})
        differing = [key for key in keys if len({str(one.get(key)) for one in values}) > 1]
        for group, one in zip(same, values, strict=True):
            told = " ".join(f"{key}={one[key]}" for key in differing if key in one)
            yield group if group.tables or len(same) == 1 else replace(group, apart=told)


def articles(groups: list[Group], codes: dict[str, str]) -> Iterator[str]:
    """A panel for each data set, backbone and setting."""
    for index, (shared, same) in enumerate(groupby(groups, lambda group: group.panel)):
        dataset, backbone, told, scope = shared
        panel = list(same)
        records = [run.record for group in panel for run in group.runs]
        made_by = {record["device"]: None for record in records}
        made_by |= {f"torch {record['versions']['torch']}": None for record in records}
        made_by |= {f"commit {provenance.short(r['commit'])}": None for r in records if r["commit"]}
        title = f"{names.dataset(dataset)}, {names.backbone(backbone)}, {codes[told]}"
        largest = max(1, *(group.peak for group in panel))
        lines = [_line(group, largest) for group in panel]
        drawn = "".join(_figures(panel, f"panel{index}"))
        plural = "configurations" if len(panel) > 1 else "configuration"
        summary = f'Curves of {len(panel)} {plural} <span class="count" data-all="{len(panel)}"></span>'
        yield f"<article><h3>{escape(title)}</h3>"
        yield markup.paragraphs("about", f"{codes[told]}: {told}", "; ".join(made_by), f"peak memory: {scope}")
        yield markup.grid(title, lines, [group.of for group in panel])
        yield f"{markup.folded(summary, drawn)}</article>\n"


def _line(group: Group, largest: int) -> dict[str, Any]:
    """A configuration among others, its seeds together; the bar is relative to the largest."""
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
    """The drawings of each configuration in the colour of its rule, with those of all in grey behind it."""
    found: dict[str, list[Curve]] = {}
    for curve in (curve for group in panel for curve in group.curves):
        found.setdefault(curve.drawing, []).append(curve)
    axes = {drawing: Axes(f"{name}-{i}", curves) for i, (drawing, curves) in enumerate(found.items())}
    yield f'<svg class="defs" aria-hidden="true"><defs>{"".join(a.others for a in axes.values())}</defs></svg>'
    styles = palette.styles((group.label, group.runs[0].record["method"]) for group in panel)
    for group in panel:
        colour = f"--rule-colour:{styles[group.label].colour}"
        yield f'<figure class="run"{group.of} style="{colour}"><figcaption>{escape(group.name)}</figcaption>'
        for drawing in axes:
            own = [curve for curve in group.curves if curve.drawing == drawing]
            yield axes[drawing].svg(f"{group.name}: {drawing}", own) if own else ""
        yield "</figure>" if group.curves else "<p>There is no metrics.csv.</p></figure>"
