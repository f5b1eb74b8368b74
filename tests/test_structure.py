"""Which folders of the package may import which, how the tests are laid out, and the environment they run in."""

import ast
import os
import re

import pytest
import torch

from localsl.execution import devices
from tests.conftest import ROOT, environment, without_gpu

# The folders of the package in order: a file imports only from its own folder and the ones before it.
# "" stands for the files at the top.
FOLDERS = ["published", "core", "aux_nets", "backbones", "methods", "", "execution", "data", "train"]
FOLDERS += ["detection", "config", "runs", "measure", "analysis", "tables", "cli"]

# The folders that make up the library, and packages of the experiments, which they may not import.
LIBRARY = ("published", "core", "aux_nets", "backbones", "methods")
EXPERIMENTS = ("hydra", "omegaconf", "wandb", "pandas", "matplotlib", "sklearn", "yaml")


def modules():
    """The files of the package by their module names."""
    files = sorted((ROOT / "localsl").rglob("*.py"))
    named = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in named.items()}


def imported(file, known):
    """The modules of this package and of others that a file imports, including imports for type checking."""
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


def folder_of(name):
    """The folder that a module is in, or "" for a file at the top."""
    _, _, rest = name.partition(".")
    return rest.split(".")[0] if (ROOT / "localsl" / rest.split(".")[0]).is_dir() else ""


def test_every_folder_has_a_place_in_the_order():
    folders = {path.parent.name for path in (ROOT / "localsl").glob("*/__init__.py")}
    assert folders == {name for name in FOLDERS if name}


@pytest.mark.parametrize("name", KNOWN)
def test_a_module_imports_only_from_its_folder_and_those_before_it(name):
    if name in ("localsl.network", "localsl.__main__"):  # entry points of the experiments
        return
    own = FOLDERS.index(folder_of(name))
    upwards = {other for other in IMPORTS[name] & set(KNOWN) if FOLDERS.index(folder_of(other)) > own}
    assert not upwards


@pytest.mark.parametrize("name", [name for name in KNOWN if folder_of(name) in LIBRARY])
def test_the_library_does_not_import_packages_of_the_experiments(name):
    assert not {other.split(".")[0] for other in IMPORTS[name]} & set(EXPERIMENTS)


def test_there_are_no_circular_imports():
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


def test_at_most_six_files_are_at_the_top():
    assert len(list((ROOT / "localsl").glob("*.py"))) <= 6


def test_tests_and_the_processes_they_start_use_the_cpu_even_where_there_is_a_gpu(monkeypatch):
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with without_gpu():
        assert devices.chosen("auto").type == "cpu"
        assert environment()["CUDA_VISIBLE_DEVICES"] == ""
    assert devices.chosen("auto").type == "cuda"


def test_processes_started_by_tests_find_the_same_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "packages")
    assert environment("more")["PYTHONPATH"] == os.pathsep.join(["more", "packages"])


def test_folders_of_tests_are_folders_of_the_package():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders <= {name for name in FOLDERS if name}


def test_no_test_file_imports_another():
    """Code that several test files share belongs into tests/helpers."""
    imports = re.compile(r"^\s*(from|import) tests\.(\w+\.)*test_", re.MULTILINE)
    assert not [file.name for file in (ROOT / "tests").rglob("*.py") if imports.search(file.read_text())]
