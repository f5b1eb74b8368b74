"""The commit recorded with a run is that of the code's own repository."""

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
    """The commit that is recorded if the code lies where `module` is."""
    monkeypatch.setattr(provenance, "__file__", str(module))
    return provenance.commit()


def test_the_commit_is_that_of_the_repository_that_tracks_the_code(tmp_path, monkeypatch):
    """A repository around the code that ignores it, such as a thesis, does not count."""
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


def test_the_commit_of_a_copy_comes_from_the_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALSL_COMMIT", "0123abcd")
    assert commit_of(tmp_path / "provenance.py", monkeypatch) == "0123abcd"
    monkeypatch.setenv("LOCALSL_COMMIT", "")
    assert commit_of(tmp_path / "provenance.py", monkeypatch) is None


def test_the_repositorys_commit_takes_precedence_over_the_variable(tmp_path, monkeypatch):
    module = tmp_path / "provenance.py"
    module.touch()
    git(tmp_path, "init", "-q", ".")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "code")
    monkeypatch.setenv("LOCALSL_COMMIT", "0123abcd")
    assert commit_of(module, monkeypatch) == git(tmp_path, "rev-parse", "HEAD")


def test_the_repository_of_a_running_git_hook_is_ignored(tmp_path, monkeypatch):
    module = tmp_path / "code" / "provenance.py"
    module.parent.mkdir()
    module.touch()
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q", ".")
    git(other, "commit", "-qm", "other", "--allow-empty")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))  # git sets this variable for its hooks
    assert commit_of(module, monkeypatch) is None


def test_a_copy_without_configuration_files_reports_that(tmp_path):
    """Wheels include conf/, but a copy of the package's folder does not."""
    for name in ("localsl", "hydra_plugins"):
        shutil.copytree(ROOT / name, tmp_path / "site" / name)
    shutil.copy(ROOT / "run.py", tmp_path)
    line = [sys.executable, str(tmp_path / "run.py"), "show=modules"]
    done = subprocess.run(
        line, cwd=tmp_path, env=environment(tmp_path / "site"), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"localsl in {tmp_path / 'site' / 'localsl'} has no configuration files" in done.stderr
    assert "Traceback" not in done.stderr
