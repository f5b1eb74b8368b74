"""The commit that a record names."""

import shutil
import subprocess
import sys

from localsl.runs import provenance
from tests.conftest import ROOT, environment

GIT = ["git", "-c", "user.email=a@b", "-c", "user.name=n"]


def git(folder, *arguments):
    done = subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit_of(module, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(module))
    return provenance.commit()


def test_the_commit_is_of_the_repository_that_holds_the_code(tmp_path, monkeypatch):
    """And of none that only lies around it, such as that of a thesis, which ignores the code."""
    module = tmp_path / "code" / "localsl" / "provenance.py"
    module.parent.mkdir(parents=True)
    shutil.copy(ROOT / "localsl" / "runs" / "provenance.py", module)
    git(tmp_path, "init", "-q", ".")
    (tmp_path / ".gitignore").write_text("code/")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "thesis")
    assert commit_of(module, monkeypatch) is None
    git(tmp_path, "add", "-f", "code")
    git(tmp_path, "commit", "-qm", "with the code")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of(module, monkeypatch) == head
    module.write_text("changed")
    assert commit_of(module, monkeypatch) == f"{head}+"


def test_a_copy_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALSL_COMMIT", "0123abcd")
    assert commit_of(tmp_path / "provenance.py", monkeypatch) == "0123abcd"
    monkeypatch.setenv("LOCALSL_COMMIT", "")
    assert commit_of(tmp_path / "provenance.py", monkeypatch) is None


def test_a_repository_knows_better_than_the_variable(tmp_path, monkeypatch):
    module = tmp_path / "provenance.py"
    module.touch()
    git(tmp_path, "init", "-q", ".")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "code")
    monkeypatch.setenv("LOCALSL_COMMIT", "0123abcd")
    assert commit_of(module, monkeypatch) == git(tmp_path, "rev-parse", "HEAD")


def test_a_hooks_repository_is_not_taken_for_the_codes(tmp_path, monkeypatch):
    module = tmp_path / "code" / "provenance.py"
    module.parent.mkdir()
    module.touch()
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q", ".")
    git(other, "commit", "-qm", "other", "--allow-empty")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert commit_of(module, monkeypatch) is None


def test_a_copy_without_conf_says_so(tmp_path):
    """A wheel holds conf/ inside the package; a copy of the package alone has none."""
    for name in ("localsl", "hydra_plugins"):
        shutil.copytree(ROOT / name, tmp_path / "site" / name)
    shutil.copy(ROOT / "run.py", tmp_path)
    line = [sys.executable, str(tmp_path / "run.py"), "show=modules"]
    where = environment(tmp_path / "site")
    done = subprocess.run(line, cwd=tmp_path, env=where, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"localsl in {tmp_path / 'site' / 'localsl'} has no configuration files" in done.stderr
    assert "Traceback" not in done.stderr
