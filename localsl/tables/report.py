"""All results on one page: the tables, what is missing from them, and the curves of the runs behind them.

The page is texts and drawings alone; its frame, its style and the sorting of its tables are page.html.
"""

from __future__ import annotations

import re
import shlex
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

from localsl.published.numbers import KEYS
from localsl.runs import display, identity, provenance, tracking
from localsl.tables import curves, render
from localsl.tables.curves import Axes, Curve
from localsl.tables.records import Run
from localsl.tables.render import Row
from localsl.tables.sweeps import MEASURED_ALONE, Cell, Table, started_from
from localsl.train.task import score

PAPERS = {
    "auglocal": "AugLocal (Ma et al., ICLR 2024)",
    "man": "MAN (Su et al., ECCV 2024)",
    "mlaan": "MLAAN (Zhang et al., AAAI 2025)",
    "mlaan_preprint": "MLAAN, preprint",
}
STATES = ("done", "fewer seeds", "missing", "not built", "not measured")
UNITS = {"_pct": " (%)", "_gb": " (GB)", "_g": " (G)"}


class Html(str):
    """Markup; every other text is escaped on its way into a table."""


def write(results_dir: Path, tables: Sequence[Table], made: dict[str, list[Row]], runs: Sequence[Run]) -> Path:
    """Write RESULTS_DIR/index.html, the same bytes for the same results; returns the file.

    Args:
        made: by a table's name its rows, as `render.rows` gives them.
        runs: what is drawn, runs that fill no cell included; metrics.csv is read from their folders.
    """
    groups = _grouped(runs, made)
    values = Counter(_setting(row) for table in tables for row in made[table.name])
    told = filter(None, dict.fromkeys([*values, *(group.told for group in groups)]))
    settings = {text: f"S{i}" for i, text in enumerate(told, 1)}
    papers, nav = [], []
    for paper, of_paper in groupby(sorted(tables, key=lambda t: t.paper), lambda t: t.paper):
        name = escape(PAPERS.get(paper, paper))
        nav.append(f'<a href="#{paper}">{name}</a>')
        papers.append(f'<section id="{paper}"><h2>{name}</h2>')
        papers += [*(_table(table, made[table.name], settings) for table in of_paper), "</section>"]
    parts = {
        "nav": nav,
        "summary": _summary(tables, made, runs),
        "overview": _overview(tables, made),
        "settings": _settings(settings, values),
        "papers": papers,
        "missing": _missing(tables, made, runs, settings),
        "runs": _panels(groups, settings),
    }
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    filled = {name: "".join(part) or "<p>None.</p>" for name, part in parts.items()}
    file = results_dir / "index.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    tracking.write_atomically(file, template.substitute(filled))
    return file


def command(table: Table, cell: Cell, measure: str | None = None, run: Run | None = None) -> str:
    """What is typed for a cell: to measure it, or for all its seeds with the paper's setting or a run's."""
    if measure is not None:
        return shlex.join(["python", "run.py", *cell.overrides, f"measure={measure}"])
    typed = list(cell.overrides)
    if run is not None:
        setting = {"schedule": run.values["schedule"]["name"]} | identity.setting(run.values)
        typed += [f"{key}={'null' if value is None else value}" for key, value in setting.items()]
    elif cell.backbone_run:
        typed.append(started_from(cell.backbone_run))
    seeds = ",".join(map(str, range(table.seeds)))
    return shlex.join(["python", "run.py", "-m", *typed, f"seed={seeds}"])


def _setting(row: Row) -> str:
    """How a value was come by, in words; empty where there is none to come by."""
    if row["runs"] or not row["measured_on"]:
        return render.setting(row)
    return f"{row['measured_on']}, batch {row['batch_size']}, {row['precision']}"


def _text(value: Any) -> str:
    return value if isinstance(value, Html) else escape(str(value))


def _link(target: str, text: str) -> Html:
    return Html(f'<a href="#{escape(target.replace("/", "-"))}">{escape(text)}</a>' if target else "")


def _lines(css: str, *texts: str) -> str:
    return f'<div class="{css}">' + "".join(f"<p>{escape(text)}</p>" for text in texts if text) + "</div>"


def _mean(mean: Any, std: Any) -> str:
    return f"{mean} ± {std}" if mean != "" and std != "" else str(mean)


def _metric(name: str) -> str:
    for ending, unit in UNITS.items():
        if name.endswith(ending):
            return name.removesuffix(ending).replace("_", " ") + unit
    return name.replace("_", " ")


def _grid(label: str, rows: Sequence[dict[str, Any]], always: str = "") -> str:
    """Rows of equal keys as a table that the reader can sort, without the columns that are empty in all."""
    if not rows:
        return ""
    keep = [key for key in rows[0] if key == always or any(row[key] != "" for row in rows)]
    plain = {key: [re.sub("<[^>]*>", "", _text(row[key])) for row in rows] for key in keep}
    number = re.compile(r"([+-]?[\d.,]+( ± [\d.]+| MiB)?)?")
    css = {key: "n" if all(map(number.fullmatch, texts)) else "" for key, texts in plain.items()}
    css |= {key: "long" for key, texts in plain.items() if max(map(len, texts)) > 40}
    head = "".join(f'<th scope="col" class="{css[key]}">{escape(key)}</th>' for key in keep)
    body = ("".join(f'<td class="{css[key]}">{_text(row[key])}</td>' for key in keep) for row in rows)
    lines = "".join(f"<tr>{line}</tr>\n" for line in body).replace(' class=""', "")
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table></div>\n"
    )


def _state(row: Row) -> str:
    state = row["status"].split(":")[0]
    return state if state in STATES else "fewer seeds"


def _keys(row: Row) -> tuple[str, ...]:
    return tuple(row[key] for key in KEYS)


def _states(made: list[Row]) -> Counter[str]:
    """How many numbers are in which state; one with several settings is in its best."""
    best: dict[Any, str] = {}
    for row in made:
        number = (_keys(row), row["metric"])
        best[number] = min(best.get(number, STATES[-1]), _state(row), key=STATES.index)
    return Counter(best.values())


def _summary(tables: Sequence[Table], made: dict[str, list[Row]], runs: Sequence[Run]) -> str:
    count = sum((_states(made[table.name]) for table in tables), Counter[str]())
    rows = [row for table in tables for row in made[table.name]]
    read_off = sum(row["metric"] == "structure" and row["status"] == "done" for row in rows)
    measured = count["done"] + count["fewer seeds"] - read_off
    figures = {"published numbers": count.total(), "measured": measured}
    figures |= {"of these with fewer seeds": count["fewer seeds"], "read off the networks": read_off}
    figures |= {state: count[state] for state in STATES[2:]} | {"finished runs": len(runs)}
    told = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items())
    return f"<p><b>{measured} of {count.total()} published numbers have a measurement.</b></p><dl>{told}</dl>"


def _overview(tables: Sequence[Table], made: dict[str, list[Row]]) -> str:
    rows = []
    for table in tables:
        count = _states(made[table.name])
        row = {"table": _link(table.name, table.name), "numbers": count.total()}
        rows.append(row | {state: count[state] or "" for state in STATES} | {"title": table.title})
    return _grid("State of every table", rows)


def _settings(settings: dict[str, str], values: Counter[str]) -> str:
    rows = [
        {"setting": Html(f'<span id="{code}">{code}</span>'), "in words": text, "values": values[text]}
        for text, code in settings.items()
    ]
    return _grid("Settings", rows) or "<p>Nothing is measured yet: the columns of our values are empty.</p>"


def _table(table: Table, made: list[Row], settings: dict[str, str]) -> str:
    """A line for each number and setting; what all lines share is told once, above them."""
    spread = {key: list(dict.fromkeys(row[key] for row in made)) for key in (*KEYS, "metric")}
    shared = {key: values[0] for key, values in spread.items() if len(values) == 1}
    lines = []
    for row in made:
        status, _, reason = row["status"].partition(": ")
        code = settings.get(_setting(row), "")
        line = {k: _metric(row[k]) if k == "metric" else row[k] for k in spread if k not in shared}
        line["paper"] = _mean(row["paper_mean"], row["paper_std"])
        line["ours"] = Html(f"<b>{escape(_mean(row['ours_mean'], row['ours_std']))}</b>")
        line |= {"n": row["n"], "difference": row["difference"]}
        line |= {"best epoch": _mean(row["best_mean"], row["best_std"]), "setting": _link(code, code)}
        line["status"] = Html(f'<span class="{_state(row).replace(" ", "-")}">{escape(status)}</span>')
        lines.append(line | {"remarks": "; ".join(filter(None, (reason, row["note"])))})
    common = " · ".join(f"{k} {_metric(v) if k == 'metric' else v}" for k, v in shared.items() if v)
    used = [f"{settings[text]}: {text}" for text in dict.fromkeys(map(_setting, made)) if text]
    seeds = " or ".join(map(str, sorted({table.seeds_of(cell) for cell in table.cells}, reverse=True)))
    about = _lines("about", common, *used, f"{seeds} seeds a cell; {table.name}.csv")
    number = table.name.split("/")[1].removeprefix("table")
    head = f'<h3 id="{table.name.replace("/", "-")}">Table {escape(number)}. {escape(table.title)}</h3>'
    return f"<article>{head}{about}{_grid(table.title, lines, 'ours')}</article>"


def _missing(
    tables: Sequence[Table], made: dict[str, list[Row]], runs: Sequence[Run], settings: dict[str, str]
) -> Iterator[str]:
    by_id = {run.record["id"]: run for run in runs}
    for table in tables:
        cells = {cell.keys: cell for cell in table.cells}
        lines = {}
        for row in made[table.name]:
            if _state(row) not in ("fewer seeds", "missing"):
                continue
            measure, code = MEASURED_ALONE.get(row["metric"]), settings.get(_setting(row), "")
            run = by_id.get(row["runs"].split(" ")[0])
            typed = Html(f"<code>{escape(command(table, cells[_keys(row)], measure, run))}</code>")
            line = {"cell": " ".join(filter(None, _keys(row))), "metric": _metric(row["metric"])}
            line |= {"status": row["status"], "setting": _link(code, code), "command": typed}
            lines.setdefault((_keys(row), code, measure), line)
        if lines:
            whole = escape(f"make {table.name.split('/')[1]} PAPER={table.paper}")
            yield f"<details><summary>{table.name}: {len(lines)} to run <code>{whole}</code></summary>"
            yield f"{_grid(f'Missing from {table.name}', list(lines.values()))}</details>"


@dataclass(frozen=True)
class Group:
    """Finished runs that differ in their seeds only.

    Attributes:
        keys: of the first cell that they are measured for; empty if there is none.
        tables: the names of all tables that show them.
    """

    runs: list[Run]
    keys: dict[str, str]
    tables: list[str]

    @cached_property
    def told(self) -> str:
        """Their setting in words, as `render.setting`."""
        record, values = self.runs[0].record, self.runs[0].values
        row = record | {"runs": record["id"], "measured_on": record["dataset"]}
        row |= {"train_images": record["images"]["train"], "batch_size": values["batch_size"]}
        return render.setting(row | {"lr": values["optimizer"]["lr"]})

    @cached_property
    def name(self) -> str:
        """What tells them apart on a panel, in the words of the tables."""
        record, keys = self.runs[0].record, self.keys
        words = [record["method"], keys.get("base"), keys.get("depth") and f"d={keys['depth']}"]
        words += [keys.get("variant"), f"K={record['K']}" if record["modules"] > 1 else ""]
        return " ".join(filter(None, words))

    @property
    def panel(self) -> tuple[str, ...]:
        """What is shared by all that is drawn on the same axes."""
        record = self.runs[0].record
        return record["dataset"], record["backbone"], self.told, record["peak_memory_scope"]

    @cached_property
    def curves(self) -> list[Curve]:
        """All that is drawn of them."""
        return [curve for run in self.runs for curve in curves.read(run.folder / "metrics.csv") if curve.points]

    @cached_property
    def peak(self) -> int:
        """Of memory, in bytes."""
        return max(run.record["peak_memory_bytes"] or 0 for run in self.runs)


def _grouped(runs: Sequence[Run], made: dict[str, list[Row]]) -> list[Group]:
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
    return sorted(groups, key=lambda group: (group.panel, group.name, group.runs[0].record["id"]))


def _panels(groups: list[Group], settings: dict[str, str]) -> Iterator[str]:
    for index, (shared, same) in enumerate(groupby(groups, lambda group: group.panel)):
        dataset, backbone, told, scope = shared
        panel = list(same)
        records = [run.record for group in panel for run in group.runs]
        made_by = {record["device"]: None for record in records}
        made_by |= {f"torch {record['versions']['torch']}": None for record in records}
        made_by |= {f"commit {provenance.short(r['commit'])}": None for r in records if r["commit"]}
        title = f"{dataset}, {backbone}, {settings[told]}"
        yield f"<article><h3>{escape(title)}</h3>"
        yield _lines("about", f"{settings[told]}: {told}", "; ".join(made_by), f"peak memory: {scope}")
        largest = max(1, *(group.peak for group in panel))
        yield _grid(title, [_line(group, largest) for group in panel])
        yield f"{''.join(_figures(panel, f'panel{index}'))}</article>"


def _line(group: Group, largest: int) -> dict[str, Any]:
    """A configuration among others, its seeds together; the bar is relative to the largest."""
    row: dict[str, Any] = {"configuration": group.name, "modules": group.runs[0].record["modules"]}
    row["n"] = len(group.runs)
    for name in ("last", "best"):
        values = [score(run.record[name]) for run in group.runs]
        spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        row[f"{name} epoch, test %"] = _mean(f"{statistics.mean(values):.2f}", spread)
    row["seconds"] = f"{statistics.mean(run.record['seconds'] for run in group.runs):.0f}"
    bar = f'<span class="track"><span style="width:{100 * group.peak / largest:.1f}%"></span></span>'
    row["peak memory"] = Html(escape(display.mebibytes(group.peak)) + bar)
    row["tables"] = Html(", ".join(_link(table, table) for table in group.tables))
    row["ids"] = " ".join(run.record["id"] for run in group.runs)
    return row


def _figures(panel: list[Group], name: str) -> Iterator[str]:
    """The drawings of each configuration, with those of all in grey behind it."""
    found: dict[str, list[Curve]] = {}
    for curve in (curve for group in panel for curve in group.curves):
        found.setdefault(curve.drawing, []).append(curve)
    axes = {drawing: Axes(f"{name}-{i}", curves) for i, (drawing, curves) in enumerate(found.items())}
    yield f'<svg class="defs" aria-hidden="true"><defs>{"".join(a.others for a in axes.values())}</defs></svg>'
    for group in panel:
        yield f"<figure><figcaption>{escape(group.name)}</figcaption>"
        for drawing in axes:
            own = [curve for curve in group.curves if curve.drawing == drawing]
            yield axes[drawing].svg(f"{group.name}: {drawing}", own) if own else ""
        yield "</figure>" if group.curves else "<p>There is no metrics.csv.</p></figure>"
