"""The structure of the package: which room may import which, no circles, and a core that knows no configuration.

And what all tests stand on.
"""

import ast
import os
import re
from pathlib import Path

import pytest
import torch

from localsl.execution import devices
from tests.conftest import ROOT, environment, without_gpu

# A file imports from its own room and from those above it.
ROOMS = ["published", "core", "aux_nets", "backbones", "methods", "", "execution", "data", "train"]
ROOMS += ["detection", "config", "runs", "measure", "analysis", "tables", "cli"]

# What no file of the library's own rooms may import.
LIBRARY = ("published", "core", "aux_nets", "backbones", "methods")
FOREIGN = ("hydra", "omegaconf", "wandb", "pandas", "matplotlib", "sklearn", "yaml")


def modules():
    """The files of the package by dotted name, below `localsl`."""
    files = sorted((ROOT / "localsl").rglob("*.py"))
    named = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in named.items()}


def imported(file, known):
    """The modules of the package, and other packages, that a file imports, for type checking included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in inside}
    return found


KNOWN = modules()
IMPORTS = {name: imported(file, KNOWN) - {name} for name, file in KNOWN.items()}


def room(name):
    """The folder that a module is in; "" for the files at the top, which are the library's door."""
    _, _, rest = name.partition(".")
    return rest.split(".")[0] if (ROOT / "localsl" / rest.split(".")[0]).is_dir() else ""


def test_every_folder_is_a_room_of_the_order():
    folders = {path.parent.name for path in (ROOT / "localsl").glob("*/__init__.py")}
    assert folders == {name for name in ROOMS if name}


@pytest.mark.parametrize("name", KNOWN)
def test_imports_point_one_way(name):
    if name in ("localsl.network", "localsl.__main__"):  # doors of the experiments, at the top for their names
        return
    own = ROOMS.index(room(name))
    upwards = {other for other in IMPORTS[name] & set(KNOWN) if ROOMS.index(room(other)) > own}
    assert not upwards


@pytest.mark.parametrize("name", [name for name in KNOWN if room(name) in LIBRARY])
def test_the_library_imports_no_package_of_the_experiments(name):
    assert not {other.split(".")[0] for other in IMPORTS[name]} & set(FOREIGN)


def test_no_module_imports_itself_through_others():
    state = {}

    def visit(name, path):
        if state.get(name) == "done":
            return
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        for other in sorted(IMPORTS[name] & set(KNOWN)):
            visit(other, [*path, name])
        state[name] = "done"

    for name in KNOWN:
        visit(name, [])


def test_few_files_at_the_top():
    assert len(list(Path(ROOT / "localsl").glob("*.py"))) <= 6


def test_tests_and_what_they_start_are_on_the_cpu_also_of_a_machine_with_a_gpu(monkeypatch):
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with without_gpu():
        assert devices.chosen("auto").type == "cpu"
        assert environment()["CUDA_VISIBLE_DEVICES"] == ""
    assert devices.chosen("auto").type == "cuda"


def test_what_tests_start_finds_the_packages_that_they_find(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "packages")
    assert environment("more")["PYTHONPATH"] == os.pathsep.join(["more", "packages"])


def test_the_tests_are_laid_out_as_the_package_is():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders <= {name for name in ROOMS if name}


def test_no_test_imports_another():
    """What several of them need is in tests/helpers."""
    imports = re.compile(r"^\s*(from|import) tests\.(\w+\.)*test_", re.MULTILINE)
    assert not [file.name for file in (ROOT / "tests").rglob("*.py") if imports.search(file.read_text())]
