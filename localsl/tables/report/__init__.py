"""All results on one page: progress, figures, the papers' tables, what is to run, and the runs behind the numbers.

The page is one file that loads nothing. Its frame is page.html, its style page.css, and what it does page.js.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

from localsl.analysis import palette
from localsl.runs import tracking
from localsl.tables.records import Run
from localsl.tables.render import Row
from localsl.tables.report import filters, markup, pictures, progress, published, settings
from localsl.tables.report import runs as of_runs
from localsl.tables.report.markup import Of
from localsl.tables.sweeps import Table

HERE = Path(__file__).parent


def write(results_dir: Path, tables: Sequence[Table], made: dict[str, list[Row]], runs: Sequence[Run]) -> Path:
    """Write RESULTS_DIR/index.html, the same bytes for the same results; returns the file.

    Args:
        results_dir: where the figures are, too.
        made: by a table's name its rows, as `render.rows` gives them.
        runs: what is drawn, runs that fill no cell included; metrics.csv is read from their folders.
    """
    groups = of_runs.grouped(runs, made)
    rows = [row for table in tables for row in made[table.name]]
    codes = settings.codes(rows, (group.told for group in groups))
    shown = [Of(row["dataset"], row["backbone"], row["method"]) for row in rows]
    parts = {
        "style": _file("page.css") + "".join(_colours()),
        "script": _file("page.js"),
        "summary": progress.summary(tables, made, len(runs)),
        "matrix": progress.matrix(tables, made),
        "filters": filters.form([*shown, *(group.of for group in groups)]),
        "figures": pictures.gallery(list(pictures.of_paper(results_dir, "ours"))),
        "papers": "".join(_papers(results_dir, tables, made, codes, runs)),
        "runs": "".join(of_runs.articles(groups, codes)) or "<p>None.</p>",
        "settings": settings.table(codes, rows),
    }
    file = results_dir / "index.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    tracking.write_atomically(file, Template(_file("page.html")).substitute(parts))
    return file


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _colours() -> Iterator[str]:
    """The colour of each family of rules as a style of its own."""
    for family, colour in palette.COLOURS.items():
        yield f"i.{family} {{ --rule-colour: {colour}; }}\n"


def _papers(
    results_dir: Path,
    tables: Sequence[Table],
    made: dict[str, list[Row]],
    codes: dict[str, str],
    runs: Sequence[Run],
) -> Iterator[str]:
    """A section a paper."""
    by_id = {run.record["id"]: run for run in runs}
    for paper, of_paper in progress.by_paper(tables):
        yield f'<section id="{markup.anchor(paper)}"><h2>{escape(progress.PAPERS.get(paper, paper))}</h2>\n'
        for table in of_paper:
            yield published.article(table, made[table.name], codes, by_id, results_dir)
        yield f"{pictures.gallery(list(pictures.of_paper(results_dir, paper)))}</section>\n"
