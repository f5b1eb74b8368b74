"""The progress: how many published numbers are measured, in a sentence and as a matrix of papers and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any

from localsl.published.numbers import KEYS
from localsl.tables.report.markup import anchor
from localsl.tables.results import EARLIER, Row
from localsl.tables.sweep_files import MEASURED_ALONE, Table

PAPERS = {
    "auglocal": "AugLocal (Ma et al., ICLR 2024)",
    "man": "MAN (Su et al., ECCV 2024)",
    "mlaan": "MLAAN (Zhang et al., AAAI 2025)",
    "mlaan_preprint": "MLAAN, preprint",
    "ours": "Measured here",
}
STATES = ("done", "fewer seeds", "shortened", "missing", "stand-in", "not measured")
MEASURED = STATES[:3]


def state(row: Row) -> str:
    """The state of a row, one of STATES."""
    first = row["status"].removeprefix(EARLIER).split(":")[0]
    if row["status"].startswith(EARLIER) and first == "done":
        return "fewer seeds"
    return first if first in STATES else "fewer seeds"


def is_measured(row: Row) -> bool:
    """Whether a row has a value of ours."""
    return state(row) in MEASURED


def keys(row: Row) -> tuple[str, ...]:
    """The values of the key columns, which identify the cell of a row within its table."""
    return tuple(row[key] for key in KEYS)


def states(made: Sequence[Row]) -> Counter[str]:
    """The number of published numbers in each state; one with several settings counts in its best state."""
    best: dict[Any, str] = {}
    for row in made:
        number = (keys(row), row["metric"])
        best[number] = min(best.get(number, STATES[-1]), state(row), key=STATES.index)
    return Counter(best.values())


def summary(tables: Sequence[Table], made: dict[str, list[Row]], runs: int) -> str:
    """A sentence and a list of counts that state how many numbers are measured."""
    count = sum((states(made[table.name]) for table in tables), Counter[str]())
    rows = [row for table in tables for row in made[table.name]]
    derived = sum(row["metric"] == "structure" and row["status"] == "done" for row in rows)
    measured = sum(count[name] for name in MEASURED) - derived
    alone = {
        (table.name, keys(row), row["metric"])
        for table in tables
        for row in made[table.name]
        if row["metric"] in MEASURED_ALONE and is_measured(row)
    }
    full = measured - count["shortened"] - len(alone)
    sentence = (
        f"Of {count.total()} published numbers, {full} are measured by training at the paper's length, "
        f"{count['shortened']} by shortened training (fewer epochs or images: not comparable with the paper's), "
        f"and {len(alone)} as memory, operations or time of a step."
    )
    figures = {"measured": measured, "of these with shortened training": count["shortened"]}
    figures |= {"of these with fewer seeds": count["fewer seeds"], "derived from the networks": derived}
    figures |= {name: count[name] for name in STATES[3:]} | {"finished runs": runs}
    words = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items() if value)
    return f"<p><b>{sentence}</b></p><dl>{words}</dl>"


def by_paper(tables: Sequence[Table]) -> list[tuple[str, list[Table]]]:
    """The tables of each paper, in the order of PAPERS."""
    known = list(PAPERS)
    ordered = sorted(tables, key=lambda t: (known.index(t.paper) if t.paper in known else len(known), t.paper))
    return [(paper, list(of_paper)) for paper, of_paper in groupby(ordered, lambda table: table.paper)]


def matrix(tables: Sequence[Table], made: dict[str, list[Row]]) -> str:
    """The matrix: a row for each paper, and a cell for each table with its share of measured numbers and a link."""
    lines = []
    for paper, of_paper in by_paper(tables):
        head = f'<div class="paper" role="rowheader">{escape(PAPERS.get(paper, paper))}</div>'
        cells = "".join(_cell(table, made[table.name]) for table in of_paper)
        lines.append(f'<div class="line" role="row">{head}{cells}</div>\n')
    columns = max((len(of_paper) for _, of_paper in by_paper(tables)), default=1)
    attributes = (
        f'class="matrix" style="--columns:{columns}" role="table" aria-label="Progress by paper and table"'
    )
    return f"<div {attributes}>\n{''.join(lines)}</div>"


def _cell(table: Table, made: Sequence[Row]) -> str:
    count, number = states(made), table.name.split("/")[1].removeprefix("table")
    measured, total = sum(count[name] for name in MEASURED), count.total()
    done, part = 100 * count["done"] / total, 100 * measured / total
    words = f"Table {number}, {table.title}: {measured} of {total} numbers measured"
    words += f", {count['shortened']} by shortened training" if count["shortened"] else ""
    words += f", {count['fewer seeds']} with fewer seeds" if count["fewer seeds"] else ""
    attributes = "" if measured else ' class="none"'
    attributes += f' href="#{anchor(table.name)}" title="{escape(words)}" aria-label="{escape(words)}"'
    attributes += f' style="--full:{done:.0f}%;--some:{part:.0f}%"'
    value = f"<span>{number}</span><b>{measured}<small>/{total}</small></b>"
    return f'<div role="cell"><a{attributes}>{value}</a></div>'


def status(row: Row) -> tuple[str, str]:
    """The displayed state of a row, and the reason if the row states one."""
    earlier = row["status"].startswith(EARLIER)
    words, _, reason = row["status"].removeprefix(EARLIER).partition(": ")
    return f"{words}, earlier form" if earlier else words, reason
