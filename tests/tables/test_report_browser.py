"""The page of all results in a real browser, as wide as a desk's and as a telephone's, by keyboard alone."""

import shutil
from pathlib import Path

import pytest

from localsl.tables import structures
from tests.conftest import ROOT
from tests.helpers import browser
from tests.helpers.report import DGL, finished, written

WIDTHS = (1280, 400)
PROGRAM = browser.found()
pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="needs chromium: apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of all tables, with two runs and the figures of this repository."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(structures, "of_stage", lambda cell: "64R-AP-10FC")
        for seed in (0, 1):
            finished(DGL, seed, 80 + 2 * seed)
        for file in (ROOT / "results").glob("*/*.png"):
            (Path("results") / file.parent.name).mkdir(exist_ok=True)
            shutil.copy(file, Path("results") / file.parent.name)
        return (folder / written()).as_uri()


@pytest.fixture(scope="module", params=WIDTHS)
def window(request, tmp_path_factory):
    """A browser of one of the widths."""
    shown = browser.Browser(PROGRAM, tmp_path_factory.mktemp("profile"), request.param)
    shown.width = request.param
    yield shown
    shown.close()


@pytest.fixture
def opened(window, page):
    """The page, loaded anew."""
    window.open("about:blank")
    window.open(page)
    return window


ROWS = "[...document.querySelectorAll('tr[data-rule]')].filter(row => row.checkVisibility())"
FITS = """({page: document.documentElement.scrollWidth, window: innerWidth, wide:
  [...document.querySelectorAll('body *')].filter(part => part.checkVisibility() && !part.closest('.scroll, svg') &&
    part.getBoundingClientRect().right > innerWidth + 1).map(part => part.outerHTML.slice(0, 80))})"""


def test_it_fits_the_window_folded_and_unfolded(opened):
    for _ in range(2):
        assert opened.run(FITS) == {"page": opened.width, "window": opened.width, "wide": []}
        opened.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert opened.run("document.querySelectorAll('details[open]').length") > 30


def test_its_text_and_figures_can_be_read(opened):
    smallest = """Math.min(
      ...[...document.querySelectorAll('p, td, th, a, summary, select, label, figcaption, span, b')]
      .filter(part => part.checkVisibility() && part.textContent.trim())
      .map(part => parseFloat(getComputedStyle(part).fontSize)))"""
    assert opened.run(smallest) >= 10
    pictures = """[...document.querySelectorAll('.picture img')].map(image =>
      [image.naturalWidth, image.clientWidth, image.naturalHeight / image.naturalWidth
        / ((image.clientHeight - 8) / (image.clientWidth - 8))])"""
    found = opened.run(pictures)
    of_tables = [file for file in (ROOT / "results").glob("*/*.png") if file.stem != "pipeline"]  # a model's
    assert len(found) == len(of_tables)
    for natural, shown, ratio in found:
        assert natural > 500
        assert 240 <= shown <= opened.width
        assert ratio == pytest.approx(1, abs=0.03)


def test_progress_comes_first_and_is_a_matrix(opened):
    cells = opened.run("""[...document.querySelectorAll('.matrix a')].map(link => {
      const box = link.getBoundingClientRect();
      return [link.getAttribute('href'), Math.round(box.left), Math.round(box.top), box.width, box.right];
    })""")
    assert len(cells) == 28
    assert all(width >= 40 and right <= opened.width for *_, width, right in cells)
    if opened.width == 1280:  # a line a paper, the same number of a table below the other
        assert len({top for _, _, top, *_ in cells}) == 4
        firsts = {left for href, left, *_ in cells if href.endswith("-table1")}
        assert len(firsts) == 1
    assert opened.run("document.querySelector('.matrix').getBoundingClientRect().top") < 700
    opened.tab_to(".matrix a[href='#man-table1']")
    opened.press("Enter")
    assert opened.run("location.hash") == "#man-table1"
    box = opened.run("document.querySelector('#man-table1 h3').getBoundingClientRect().top")
    bar = opened.run("document.getElementById('filters').getBoundingClientRect().bottom")
    assert bar - 1 <= box < 300  # below the filters, which stay in sight


def test_filters_by_keyboard(opened):
    everything = opened.run(f"{ROWS}.length")
    opened.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    whole = opened.run(f"{ROWS}.length")
    assert whole > everything
    opened.tab_to("select[name=rule]")
    opened.press("d", "g", "l")
    assert opened.run("document.activeElement.value") == "dgl"
    assert opened.run(f"[...new Set({ROWS}.map(row => row.dataset.rule))]") == ["dgl"]
    left = opened.run(f"{ROWS}.length")
    assert 0 < left < whole
    # What holds nothing of it is away: AugLocal's Table 5 is of AugLocal alone.
    assert opened.run("document.getElementById('auglocal-table5').checkVisibility()") is False
    assert opened.run("document.querySelector('.matrix a[href=\"#auglocal-table5\"]').className").endswith(
        "out"
    )
    assert opened.run("document.getElementById('auglocal-table1').checkVisibility()") is True
    told = opened.run("document.querySelector('#filters output').textContent")
    of_tables = opened.run(f"{ROWS}.filter(row => row.closest('section').id !== 'runs').length")
    measured = opened.run(f"{ROWS}.filter(row => !row.closest('.to-run, #runs')).length")
    assert told.startswith(f"{measured} lines measured, {of_tables - measured} to run")
    count = opened.run("document.querySelector('#auglocal-table1 .count').textContent")
    assert count == "(6 of 54 lines) "  # three data sets, two backbones

    opened.run("document.querySelector('select[name=dataset]').focus()")
    opened.press("S", "V")
    assert opened.run("document.activeElement.value") == "svhn"
    assert opened.run(f"{ROWS}.every(row => row.dataset.rule === 'dgl' && row.dataset.dataset === 'svhn')")
    assert 0 < opened.run(f"{ROWS}.length") < left

    opened.tab_to("button[type=reset]")
    opened.press("Enter")
    opened.run("new Promise(done => setTimeout(done, 50))")
    assert opened.run(f"{ROWS}.length") == whole
    assert opened.run("document.querySelector('#filters output').textContent") == ""


def test_unfolds_by_keyboard(opened):
    opened.tab_to("#unfold")
    before = opened.run("document.querySelectorAll('details[open]').length")
    opened.press("Space")
    assert opened.run("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert before == 0
    assert opened.run("document.querySelectorAll('details:not([open])').length") == 0
    opened.press("Space")
    assert opened.run("document.querySelectorAll('details[open]').length") == 0
    opened.tab_to(".to-run summary")
    opened.press("Enter")
    assert opened.run("document.activeElement.parentNode.open") is True
    assert opened.run("document.activeElement.parentNode.querySelector('td code').checkVisibility()") is True
    opened.press("Enter")
    assert opened.run("document.activeElement.parentNode.open") is False


def test_sorts_by_keyboard(opened):
    opened.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    opened.run("document.querySelector('#man-table1 .to-run summary').focus()")
    heads = "[...document.querySelectorAll('#man-table1 .to-run th')]"
    place = opened.run(f"{heads}.findIndex(head => head.textContent === 'paper')")
    column = f"""[...document.querySelectorAll('#man-table1 .to-run tbody tr')]
      .map(row => parseFloat(row.cells[{place}].textContent))"""
    printed = opened.run(column)
    assert len(printed) == 78
    opened.tab_to(f"#man-table1 .to-run th:nth-child({place + 1}) button")
    found = {}
    for _ in range(3):
        opened.press("Enter")
        order = opened.run("document.activeElement.parentNode.getAttribute('aria-sort')")
        found[order] = opened.run(column)
    assert found == {"ascending": sorted(printed), "descending": sorted(printed, reverse=True), None: printed}


def test_wide_tables_scroll_by_themselves(opened):
    assert opened.run("getComputedStyle(document.querySelector('.scroll')).overflowX") == "auto"
    opened.run("document.querySelector('#man-table1 details').open = true")
    opened.tab_to("#man-table1 .scroll")
    told = opened.run("[document.activeElement.getAttribute('role'), document.activeElement.ariaLabel]")
    assert told[0] == "region"
    assert told[1]
