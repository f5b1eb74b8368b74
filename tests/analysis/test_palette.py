"""Colours, names and labels of figures: a rule always looks the same, colours differ, texts do not overlap."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.text import Annotation, Text

from localsl.analysis import canvas, draw, names, palette, panels, placing
from localsl.analysis.panels import Series
from localsl.tables import plot, sweep_files
from tests.conftest import ROOT
from tests.helpers.analysis import rows_of

# How colours are seen with normal and colour-deficient vision, as matrices on linear RGB; severity 1 of
# Machado, Oliveira and Fernandes (2009).
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def lab(colour, vision):
    """CIELAB of a colour as it is seen with this vision, for the white point D65."""
    rgb = np.array(colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(vision @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    ratio = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISIONS)
def test_the_colours_of_families_differ_also_for_colour_blind_readers(vision):
    for first, second in combinations(palette.COLOURS, 2):
        seen = [lab(palette.COLOURS[family], VISIONS[vision]) for family in (first, second)]
        distance = np.linalg.norm(seen[0] - seen[1])
        assert distance > 12, f"{first} and {second}: {distance:.1f}"  # a just noticeable difference is 2.3


def test_a_rule_has_the_same_colour_whatever_is_drawn_with_it():
    alone = palette.styles([("man dgl", "man")])
    mixed = palette.styles([("bp", "bp"), ("man infopro", "man"), ("man dgl", "man"), ("mlm dgl", "mlm")])
    assert alone["man dgl"] == mixed["man dgl"]
    assert mixed["man dgl"].colour == mixed["man infopro"].colour == palette.COLOURS["man"]
    assert mixed["man dgl"].marker != mixed["man infopro"].marker
    assert palette.family("mlm") == palette.family("mlaan_released") == "mlaan"
    assert palette.colour("bp_checkpoint") == palette.COLOURS["bp"]


def test_depths_are_shades_from_light_to_dark():
    labels = [f"auglocal d={depth}" for depth in range(2, 10)]
    styles = palette.styles((label, "auglocal") for label in labels)
    luminances = [palette.luminance(style.colour) for style in styles.values()]
    assert luminances == sorted(luminances, reverse=True)
    assert len(set(luminances)) == len(labels)
    (by_override,) = palette.styles([("auglocal aux.depth=4", "auglocal")]).values()
    (by_letter,) = palette.styles([("auglocal d=4", "auglocal")]).values()
    assert by_override == by_letter


def test_variants_of_a_rule_differ_in_shade_and_marker():
    variants = ("uniform", "sequential", "repetitive", "conv1x1")
    styles = palette.styles((variant, "auglocal") for variant in variants).values()
    assert len({style.colour for style in styles}) == 4
    assert len({style.marker for style in styles}) == 4


def test_names_of_series_have_enough_contrast_on_white():
    for shade in [*palette.COLOURS.values(), *(palette.colour("auglocal", depth) for depth in range(2, 10))]:
        assert 1.05 / (palette.luminance(palette.readable(shade)) + 0.05) >= 4.5


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("bp", "BP"),
        ("man dgl", "MAN on DGL"),
        ("auglocal aux.depth=4", "AugLocal d=4"),
        ("auglocal d=2, modules", "AugLocal d=2, modules"),
        ("bp, GPipe", "BP, GPipe"),
        ("mine", "mine"),
    ],
)
def test_labels_of_rules_have_printed_names(label, name):
    assert names.rule(label) == name


def test_backbones_and_metrics_have_printed_names():
    assert [names.backbone(n) for n in ("resnet32", "vgg13", "tiny")] == ["ResNet-32", "VGG-13", "tiny"]
    assert names.metric("flops_g") == "multiply-adds (G)"
    assert names.metric("box_ap_pct") == "box ap (%)"


def test_spread_positions_are_a_gap_apart_and_close_to_the_original_ones():
    assert placing.spread([0.1, 0.5, 0.9], 0.2) == [0.1, 0.5, 0.9]
    assert placing.spread([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])
    assert placing.spread([0.9, 0.1, 0.2, 0.15], 0.1) == pytest.approx([0.9, 0.05, 0.25, 0.15])


def overlapping(figure):
    """Pairs of overlapping texts of a figure, and texts that extend beyond it."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    shown = [text for axis in figure.axes if axis.get_visible() for text in axis.findobj(Text)]
    shown = [text for text in shown if text.get_text() and text.get_visible()]
    boxes = {}
    for text in shown:
        if isinstance(text, Annotation):
            text.update_positions(renderer)
        box = Text.get_window_extent(text, renderer)
        if figure.bbox.padded(200).overlaps(box) and _is_drawn(text):
            boxes[text] = box
    pairs = [
        (first.get_text(), second.get_text())
        for first, second in combinations(boxes, 2)
        if boxes[first].padded(-1).overlaps(boxes[second].padded(-1))
    ]
    outside = [text.get_text() for text, box in boxes.items() if box.x0 < -1 or box.x1 > figure.bbox.x1 + 1]
    return pairs + outside


def _is_drawn(text):
    """Whether a text is drawn: labels of ticks beyond the limits of their axis are not."""
    for axis in text.figure.axes:
        for side, limits in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
            for tick in side.get_major_ticks():
                if text in (tick.label1, tick.label2):
                    return text is tick.label1 and min(limits) <= tick.get_loc() <= max(limits)
    return True


OURS = {"fig1": "cka", "fig2": "probes", "fig3": "convergence", "fig4": "tradeoff", "fig5": "accuracy"}


@pytest.mark.parametrize("name", OURS)
def test_texts_of_our_figures_do_not_overlap(name):
    figure = draw.DRAWN[OURS[name]]([rows_of(ROOT / "results" / "ours" / f"{name}.csv")])
    assert overlapping(figure) == []
    canvas.plt.close(figure)


DRAWN = [name for name in sweep_files.every() if sweep_files.read(name).plot]


@pytest.mark.parametrize("name", DRAWN)
def test_texts_of_a_tables_figure_do_not_overlap(name, monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(canvas, "save", lambda file, figure, title, note: saved.append((figure, title, note)))
    table = sweep_files.read(name)
    plot.draw(tmp_path / "t.png", table, rows_of((ROOT / "results" / name).with_suffix(".csv")))
    ((figure, title, note),) = saved
    assert overlapping(figure) == []
    assert title == table.title
    assert "Hollow: the paper" in note
    canvas.plt.close(figure)


def test_names_of_crowded_points_do_not_overlap():
    rng = np.random.default_rng(0)
    style = palette.Style("#000000", "o")
    points = rng.normal(0, 1, (14, 2))
    series = [Series(f"rule number {i}", style, [y], [x], reference=i == 0) for i, (x, y) in enumerate(points)]
    figure, ((axis,),) = canvas.panels(1, 1, (4.6, 3.3), canvas.Margins())
    panels.scatter(axis, series)
    assert {text.get_text() for text in axis.texts} == {one.name for one in series}
    assert overlapping(figure) == []
    canvas.plt.close(figure)


def test_backpropagation_is_drawn_as_a_dashed_reference_line():
    shared = {"dataset": "digits", "backbone": "tiny", "seed": 0}
    rows = [shared | {"label": label, "test_accuracy": value} for label, value in (("dgl", "70"), ("bp", "90"))]
    (axis,) = draw.accuracies([rows]).axes
    dashed = [line for line in axis.lines if list(line.get_xdata()) == [90.0, 90.0]]
    assert [line.is_dashed() for line in dashed] == [True]
    assert dashed[0].get_color() == palette.COLOURS["bp"]


def test_the_spread_over_seeds_is_drawn_and_noted():
    shared = {"dataset": "digits", "backbone": "tiny"}
    points = (("bp", 0, "90"), ("bp", 1, "94"), ("dgl", 0, "70"))
    rows = [shared | {"label": label, "seed": seed, "test_accuracy": value} for label, seed, value in points]
    (axis,) = draw.accuracies([rows]).axes
    (bar,) = [b for c in axis.containers if c.has_xerr for b in c.lines[2]]
    (ends,) = bar.get_segments()
    assert ends[:, 0] == pytest.approx([92 - 8**0.5, 92 + 8**0.5])
    note = draw._note("accuracy", [rows])
    assert "one standard deviation over seeds" in note
    assert "One seed: DGL." in note
    assert draw._note("accuracy", [[row for row in rows if row["seed"] == 0]]).count("One seed.") == 1


def test_a_figure_drawn_again_has_the_same_bytes(tmp_path):
    table = tmp_path / "fig.csv"
    table.write_bytes((ROOT / "results" / "ours" / "fig4.csv").read_bytes())
    first = draw.redraw(table, "tradeoff", "Error against memory").read_bytes()
    assert draw.redraw(table, "tradeoff", "Error against memory").read_bytes() == first
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fig.csv", "fig.png"]
