"""Launchers: the share of the machine that jobs get, and what is told before any of them starts."""

import os
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from hydra_plugins.localsl_sweeper import LocalslSweeper
from localsl.cli import launching
from localsl.cli.command_line import check_command_line
from localsl.config import ConfigError
from localsl.config.composition import hydras_own
from tests.conftest import ROOT


def machine(*typed, jobs=100):
    return launching.machine(hydras_own(typed), jobs)


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.setattr("joblib.effective_n_jobs", lambda n: n if n > 0 else max(1, 9 + n))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("typed", "jobs", "at_once", "threads"),
    [
        (["hydra/launcher=joblib"], 100, 8, 1),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=-2"], 100, 7, 1),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], 100, 2, 4),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=16"], 100, 16, 1),
        (["hydra/launcher=joblib"], 3, 3, 2),
        (["hydra/launcher=joblib", "hydra.sweeper.max_batch_size=4"], 100, 4, 2),
        (["hydra/launcher=submitit_local"], 100, 8, 1),
        (["hydra/launcher=submitit_local"], 2, 2, 4),
        (["hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2"], 100, 2, 4),
        (["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=4"], 100, 1, 2),
    ],
)
def test_cores_are_shared_by_the_jobs_at_once(typed, jobs, at_once, threads):
    here = machine(*typed, jobs=jobs)
    assert here.at_once == at_once
    assert f"threads={threads}" in here.share(["K=4"], 0)


def test_gpus_are_shared_where_jobs_see_them():
    by_joblib = machine("hydra/launcher=joblib")
    assert [by_joblib.share(["threads=1"], i) for i in range(3)] == [[f"device=cuda:{i}"] for i in (0, 1, 0)]
    local = ["hydra/launcher=submitit_local"]
    assert machine(*local).share(["threads=1"], 1) == []  # submitit hides them
    assert machine(*local, "hydra.launcher.gpus_per_node=4").share(["threads=1"], 3) == ["device=cuda:3"]


@pytest.mark.parametrize("typed", [["threads=3", "device=cpu"], ["++threads=3", "+device=cpu"]])
def test_what_is_typed_wins(typed):
    assert machine("hydra/launcher=joblib").share(typed, 0) == []


@pytest.mark.parametrize("launcher", ["basic", "submitit_slurm"])
def test_one_job_at_a_time_and_a_clusters_jobs_share_nothing(launcher):
    assert machine(f"hydra/launcher={launcher}") is None


def test_cores_are_those_of_the_processs_affinity():
    code = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}}); "
    code += "from localsl.config.composition import hydras_own; from localsl.cli.launching import machine; "
    code += "print(machine(hydras_own(['hydra/launcher=joblib']), 9))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout.startswith("Machine(cores=1, "), found.stderr
    assert "at_once=1," in found.stdout


@pytest.mark.parametrize(
    ("typed", "key", "words"),
    [
        (["hydra/launcher=submitit_slurm"], "hydra/launcher", "no srun"),
        (
            ["hydra/launcher=joblib", "hydra.launcher.n_jobs=0"],
            "hydra.launcher.n_jobs",
            "-1 starts one job per core",
        ),
        (["hydra.sweeper.max_batch_size=0"], "hydra.sweeper.max_batch_size", "at least 1"),
        (["hydra.sweeper.max_batch_size=x"], "hydra.sweeper.max_batch_size", "whole number"),
        (["processes=2"], "processes", "tasks_per_node=2"),
        (["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2"], "processes", "processes=2"),
    ],
)
def test_a_launcher_that_cannot_work_is_told_before_anything_runs(typed, key, words, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError) as error:
        check_command_line(["-m", "K=4,8", *typed])
    (problem,) = error.value.problems
    assert problem.key == key
    assert words in str(problem)


@pytest.mark.parametrize(
    ("launcher", "size", "batches"),
    [
        ("joblib", None, [(0, 5)]),
        ("joblib", 2, [(0, 2), (2, 2), (4, 1)]),
        ("basic", None, [(i, 1) for i in range(5)]),  # one at a time, to print what starts
    ],
)
def test_jobs_are_given_to_the_launcher_in_batches(launcher, size, batches, capsys):
    given = []

    class Launcher:
        def launch(self, jobs, initial_job_idx):
            given.append((initial_job_idx, len(jobs)))
            return jobs

    sweeper = LocalslSweeper(size)
    sweeper._launcher = Launcher()
    sweeper._hydra = OmegaConf.create({"runtime": {"choices": {"hydra/launcher": launcher}}})
    jobs, titles = [[f"seed={i}"] for i in range(5)], [f"[{i} of 5]" for i in range(1, 6)]
    assert sweeper._launch(jobs, titles, 0) == jobs
    assert given == batches
    assert capsys.readouterr().out.splitlines() == titles
    assert sweeper._launch([], [], 5) == []
