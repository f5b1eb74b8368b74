"""Figures of sweeps: which there are, what they train, and that they are drawn."""

import shutil
from pathlib import Path

import pytest

from localsl.config import ConfigError, compose
from localsl.config.composition import Composition
from localsl.tables import sweep_files
from tests.conftest import ROOT
from tests.helpers.analysis import TINY, rows_of
from tests.helpers.command import typed


def test_figures_are_asked_for_by_name_and_no_part_of_the_tables():
    assert sweep_files.named("man/figures") == ["man/fig1", "man/fig4", "man/fig5", "man/fig6", "man/fig7"]
    assert sweep_files.named("fig3") == ["auglocal/fig3", "ours/fig3"]
    assert set(sweep_files.named("figures")) == set(sweep_files.figures())
    assert not set(sweep_files.named("all")) & set(sweep_files.figures())
    with pytest.raises(ConfigError, match="did you mean sweep=man/fig4"):
        sweep_files.named("man/fig44")


def test_every_figure_composes_and_tells_its_runs_apart():
    asked = [sweep_files.read(name) for name in sweep_files.figures()]
    cells = [cell for figure in asked for cell in figure.cells]
    composition = Composition()
    for overrides in {tuple(o for o in c.overrides if not o.startswith("checkpoint.")) for c in cells}:
        compose(overrides, composition)
    assert all(cell.trains for cell in cells)
    for figure in asked:
        kind = compose(figure.analysis).analysis.kind
        required = {"checkpoint.required=true" in cell.overrides for cell in figure.cells}
        assert required == {kind not in ("convergence", "pyramid", "tradeoff", "accuracy")}
        assert kind != "cka" or any("method=bp" in cell.overrides for cell in figure.cells)
        labels = {(cell.label, *cell.keys[1:4]) for cell in figure.cells}
        assert len(labels) == len(figure.cells) or kind == "pyramid"


def test_the_preprints_figures_are_mlaans():
    preprint = [name for name in sweep_files.figures() if name.startswith("mlaan_preprint/")]
    assert [name.split("/")[1] for name in preprint] == ["fig1", "fig4", "fig5", "fig6"]
    for name in preprint:
        own, mlaans = sweep_files.read(name), sweep_files.read(name.replace("_preprint", ""))
        assert (own.name, own.cells, own.analysis) == (name, mlaans.cells, mlaans.analysis)


FIGURE = """
title: Similarity
seeds: 1
analysis: analysis=cka analysis.images=30
grids:
  - run: method=bp dataset=cifar10
  - run: method=dgl dataset=cifar10 K=16
    keys: {variant: plain}
"""


@pytest.fixture
def figure(tmp_path, monkeypatch):
    """Of two runs, typed for tiny networks on digits."""
    (tmp_path / "sweeps" / "some").mkdir(parents=True)
    (tmp_path / "sweeps" / "some" / "fig1.yaml").write_text(FIGURE)
    monkeypatch.setattr(sweep_files, "SWEEPS", tmp_path / "sweeps")
    return ["-m", "sweep=some/fig1", "dataset=digits", *TINY]


def test_a_figure_trains_its_runs_and_is_drawn(figure, monkeypatch, capsys):
    assert typed(monkeypatch, *figure) == 0
    drawn = Path("outputs/results/some/fig1.csv")
    rows = rows_of(drawn)
    assert [row["label"] for row in rows] == ["plain"] * 5
    assert {row["images"] for row in rows} == {"30"}
    assert drawn.with_suffix(".png").exists()
    assert "outputs/results/some/fig1{.csv,.png}" in capsys.readouterr().out

    # Records alone are not enough: such a run is trained again, to the same numbers.
    shutil.rmtree(next(Path().glob("outputs/digits/dgl*/*/checkpoints")))
    assert typed(monkeypatch, *figure, "show=status") == 0
    assert "1 done, 1 missing" in capsys.readouterr().out
    assert typed(monkeypatch, *figure) == 0
    assert rows_of(drawn) == rows

    # What cannot be drawn is told, with the exit code of a wrong configuration.
    shutil.rmtree(next(Path().glob("outputs/digits/bp*")))
    assert typed(monkeypatch, *figure, "show=tables") == 2
    told = capsys.readouterr()
    assert "nothing: see below" in told.out
    assert "none of the runs trains with it" in told.err
    shutil.rmtree("outputs")
    assert typed(monkeypatch, *figure, "show=tables") == 0
    assert "no runs yet" in capsys.readouterr().out
    assert typed(monkeypatch, *figure, "show=report") == 2


def test_a_figure_is_drawn_again_from_its_csv_alone(figure, monkeypatch, capsys):
    line = [*figure, "show=figures"]
    assert typed(monkeypatch, *line) == 0
    assert "results has no CSV of these figures" in capsys.readouterr().out
    kept = Path("results/some/fig1.csv")
    kept.parent.mkdir(parents=True)
    shutil.copy(ROOT / "results" / "ours" / "fig1.csv", kept)
    before = kept.read_bytes()
    assert typed(monkeypatch, *line) == 0
    assert "written to results/some/fig1.png" in capsys.readouterr().out
    drawn = kept.with_suffix(".png").read_bytes()
    assert typed(monkeypatch, *line) == 0
    assert kept.with_suffix(".png").read_bytes() == drawn
    assert kept.read_bytes() == before
    assert not Path("outputs").exists()  # no run was needed


def test_a_table_is_no_figure_to_draw_again(monkeypatch, capsys):
    assert typed(monkeypatch, "-m", "sweep=mlaan/table5", "show=figures") == 2
    assert "type sweep=figures" in capsys.readouterr().err


def test_runs_that_figures_share_are_counted_once(figure, monkeypatch, capsys):
    """Though one is made of checkpoints and the other of records."""
    (sweep_files.SWEEPS / "some" / "fig2.yaml").write_text(
        FIGURE.replace("cka analysis.images=30", "convergence")
    )
    line = [argument.replace("fig1", "figures") for argument in figure]
    assert typed(monkeypatch, *line, "show=status") == 0
    told = capsys.readouterr().out
    assert [row.split()[-4] for row in told.splitlines() if row.startswith("some/")] == ["0", "0"]
    assert "2 runs, those that tables share counted once: 2 missing" in told
    assert typed(monkeypatch, *line, "show=jobs") == 0
    assert "2 runs to do: about" in capsys.readouterr().out


def test_seeds_share_a_line_and_what_is_typed_for_all_parts_them(figure, monkeypatch):
    line = [argument for argument in figure if argument != "seed=0"]
    assert typed(monkeypatch, *line, "seed=0,1", "optimizer.lr=0.1,0.2") == 0
    rows = rows_of("outputs/results/some/fig1.csv")
    labels = {(row["label"], row["seed"]) for row in rows if row["method"] == "dgl"}
    assert labels == {(f"plain optimizer.lr={rate}", seed) for rate in ("0.1", "0.2") for seed in "01"}
