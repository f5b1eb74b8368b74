"""The documentation: its commands and Python run as they stand, its links lead somewhere, its names exist."""

import os
import re
import runpy
import shlex
import sys
from typing import Any

import pytest
import torch

from localsl import methods
from localsl.cli.command_line import check_command_line, quoted
from localsl.cli.main import main
from localsl.measure.gpu import __main__ as gpu
from localsl.tables import sweeps
from tests.conftest import ROOT
from tests.helpers import markdown
from tests.helpers.command import typed

# Words that stand for something of the reader's.
PLACEHOLDER = re.compile(r"\b(ID|FOLDER|FILE|NAME|ENTITY|N)\b|\.\.\.|<")
# Commands that are also run, beside those whose output is shown: they take a second or two.
RUN = ("show=modules", "--help", "method=skipping dataset=digits K=4 measure=flops")


PAGES = markdown.pages("README.md", "CONTRIBUTING.md", "docs/*.md")
COMMANDS = [(page, line) for page in PAGES for line in markdown.commands(page)]


def overrides_of(line):
    """What is typed after run.py, `localsl` or an example; None if the line is another command."""
    words = shlex.split(line, comments=True)
    if words[0] == "localsl":
        return words[1:]
    if "run.py" in words and words[0] in ("python", "torchrun"):
        return words[words.index("run.py") + 1 :]
    return words[2:] if len(words) > 2 and words[1].startswith("examples/") else None


def is_run(page, line):
    """Whether a test below runs it, and does not only compose it."""
    return line in markdown.shown(page) or any(text in line for text in RUN)


# By line, with the first page that has it.
LINES = {line: page for page, line in COMMANDS[::-1] if overrides_of(line) and not PLACEHOLDER.search(line)}


@pytest.fixture(autouse=True)
def own_rules(monkeypatch):
    """Forget the rules that examples and pages register."""
    monkeypatch.setattr(methods, "_registered", dict(methods._registered))


def lines(wanted):
    """The command lines for which `wanted(page, line)` holds, with the page that has them."""
    found = [(page, line) for line, page in LINES.items() if wanted(page, line)]
    return [pytest.param(page, line, id=f"{page.name}: {line}") for page, line in found]


def in_a_reader_s_place(pictures, page, line, monkeypatch):
    """The folder `pictures` of docs/data.md, a cluster's login node, and the rule that an example registers."""
    (pictures / "pictures").mkdir()
    for part in ("train", "test"):
        (pictures / part).rename(pictures / "pictures" / part)
    srun = pictures / "bin" / "srun"
    srun.parent.mkdir()
    srun.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(srun.parent), prepend=os.pathsep)
    if "examples/" in line:
        runpy.run_path(str(ROOT / shlex.split(line)[1]))


def test_there_are_commands_to_check():
    assert len(LINES) >= 35
    of_pages = {page.name for page in LINES.values()}
    assert of_pages >= {"README.md", "runs.md", "data.md", "tables.md", "measuring.md", "your-rule.md"}


@pytest.mark.parametrize(("page", "line"), lines(lambda page, line: not is_run(page, line)))
def test_a_command_is_composed(page, line, pictures, monkeypatch):
    """Of a sweep what is typed beside it: tests/tables/test_tables.py composes its cells."""
    in_a_reader_s_place(pictures, page, line, monkeypatch)
    typed = overrides_of(line)
    named = [word.removeprefix("sweep=") for word in typed if word.startswith("sweep=")]
    if named:
        assert sweeps.requested([f"sweep={named[0]}"]).jobs
        typed = [word for word in typed if not word.startswith(("sweep=", "show="))]
    assert check_command_line(quoted(typed)) is not None


@pytest.mark.parametrize(("page", "line"), lines(lambda page, line: any(text in line for text in RUN)))
def test_a_cheap_command_runs(page, line, pictures, monkeypatch, capsys):
    """Where its output is shown, every line of that is printed."""
    in_a_reader_s_place(pictures, page, line, monkeypatch)
    assert typed(monkeypatch, *overrides_of(line)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed
    assert set(markdown.shown(page).get(line, [])) <= set(printed)


@pytest.mark.parametrize(
    ("page", "line"),
    lines(lambda page, line: line in markdown.shown(page) and not any(text in line for text in RUN)),
)
def test_a_refused_command_says_what_is_shown(page, line, monkeypatch, capsys):
    assert typed(monkeypatch, *overrides_of(line)) == 2
    assert capsys.readouterr().err.splitlines() == markdown.shown(page)[line]


def test_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z][a-z%-]*):", makefile, re.MULTILINE)
    variables = re.findall(r"^([A-Z]+) *[:?]?=", makefile, re.MULTILINE)
    typed = [line for page, line in COMMANDS if shlex.split(line, comments=True)[0] == "make"]
    assert len(typed) >= 12
    for line in typed:
        for word in shlex.split(line, comments=True)[1:]:
            name, equals, _ = word.partition("=")
            known = variables if equals else [target.replace("%", ".+") for target in targets]
            assert any(re.fullmatch(text, name) for text in known), line


def test_commands_of_make_gpu_are_parsed():
    lines = [line for _, line in COMMANDS if "-m localsl.measure.gpu" in line]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        assert gpu._parse(words[words.index("localsl.measure.gpu") + 1 :])


@pytest.mark.parametrize("page", [page for page in PAGES if markdown.python(page)], ids=lambda page: page.name)
def test_python_runs_as_it_stands(page, monkeypatch):
    """A page's blocks share their names. A page's first `python run.py`, if it trains, is run before."""
    images, targets = torch.randn(4, 3, 64, 64), torch.randint(10, (4,))
    names: dict[str, Any] = {
        "__name__": "page",
        "loader": [(images, targets)],
        "images": images,
        "targets": targets,
    }
    if page.name == "methods.md":
        import localsl

        model = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, 3) for _ in range(3)), torch.nn.Flatten())
        model.append(torch.nn.Linear(3 * 58 * 58, 10))
        names["network"] = localsl.localize(model, method=localsl.DGL(), K=2, num_classes=10, example=images)
        names["optimizer"] = torch.optim.SGD(names["network"].parameters(), lr=0.1)
    if page.name == "getting-started.md":
        first = next(line for line in markdown.commands(page) if "schedule=smoke" in line)
        monkeypatch.setattr(sys, "argv", ["run.py", *overrides_of(first)])
        main()
    for block in markdown.python(page):
        exec(compile(block, str(page), "exec"), names)
    if page.name == "backbones.md":
        features = images
        plain = names["Plain"](name="plain", family="plain", width=4, depth=3)
        backbone = plain.build(10)
        assert len(backbone.layers) == len(plain.local_layers())
        for layer in backbone.layers:
            features = layer(features)
        assert backbone.classifier(features).shape == (4, 10)


@pytest.mark.parametrize(
    "page", markdown.pages("*.md", "docs/*.md", "results/*.md"), ids=lambda page: page.name
)
def test_links_lead_somewhere(page):
    for link in markdown.links(page):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not heading or heading in markdown.headings(target), link


def test_every_page_is_in_the_navigation():
    index = (ROOT / "docs" / "index.md").read_text()
    for page in markdown.pages("docs/*.md"):
        assert page.name == "index.md" or re.search(rf"^{re.escape(page.stem)}$", index, re.MULTILINE), (
            page.name
        )


def test_the_readme_is_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_every_test_that_the_table_of_faults_names_exists():
    table = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`((?:\w+/)?test_\w+\.py|…)(?:::(\w+))?`", table)
    assert len(named) >= 20
    last = ""
    for file, test in named:
        last = file = last if file == "…" else file
        assert f"def {test}(" in (ROOT / "tests" / file).read_text() or not test, f"{file}::{test}"


def test_the_version_is_the_same_everywhere():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == version
    assert re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version
