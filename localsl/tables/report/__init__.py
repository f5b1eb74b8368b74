"""The report: one page with progress, figures, the papers' tables, the cells to run, and the runs.

The page is a single file that loads nothing else: page.html is its template, page.css its style and page.js its
script.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

from localsl.analysis import palette
from localsl.execution import files
from localsl.runs.stored import Run
from localsl.tables.report import filters, markup, pictures, progress, published, settings
from localsl.tables.report import runs as of_runs
from localsl.tables.report.markup import FilterKeys
from localsl.tables.results import Row
from localsl.tables.sweep_files import Table

HERE = Path(__file__).parent


def write(results_dir: Path, tables: Sequence[Table], made: dict[str, list[Row]], runs: Sequence[Run]) -> Path:
    """Write RESULTS_DIR/index.html, and return its path. Equal results produce equal bytes.

    Args:
        results_dir: the folder to write to, which also contains the figures.
        made: the rows of each table by its name, from `results.rows`.
        runs: the runs to draw, including those outside all tables; metrics.csv is read from their folders.
    """
    groups = of_runs.grouped(runs, made)
    rows = [row for table in tables for row in made[table.name]]
    codes = settings.codes(rows, (group.setting for group in groups))
    shown = [FilterKeys(row["dataset"], row["backbone"], row["method"]) for row in rows]
    parts = {
        "style": _file("page.css") + "".join(_colours()),
        "script": _file("page.js"),
        "summary": progress.summary(tables, made, len(runs)),
        "matrix": progress.matrix(tables, made),
        "filters": filters.form([*shown, *(group.filter_keys for group in groups)]),
        "figures": pictures.gallery(list(pictures.of_paper(results_dir, "ours"))),
        "papers": "".join(_papers(results_dir, tables, made, codes, runs)),
        "runs": "".join(of_runs.articles(groups, codes)) or "<p>No runs.</p>",
        "settings": settings.table(codes, rows),
    }
    file = results_dir / "index.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write(file, Template(_file("page.html")).substitute(parts))
    return file


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _colours() -> Iterator[str]:
    """The style that sets the colour of each family of rules."""
    for family, colour in palette.COLOURS.items():
        yield f"i.{family} {{ --rule-colour: {colour}; }}\n"


def _papers(
    results_dir: Path,
    tables: Sequence[Table],
    made: dict[str, list[Row]],
    codes: dict[str, str],
    runs: Sequence[Run],
) -> Iterator[str]:
    """One section for each paper."""
    by_id = {run.record["id"]: run for run in runs}
    for paper, of_paper in progress.by_paper(tables):
        yield f'<section id="{markup.anchor(paper)}"><h2>{escape(progress.PAPERS.get(paper, paper))}</h2>\n'
        for table in of_paper:
            yield published.article(table, made[table.name], codes, by_id, results_dir)
        yield f"{pictures.gallery(list(pictures.of_paper(results_dir, paper)))}</section>\n"
