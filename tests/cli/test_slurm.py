"""`hydra/launcher=submitit_slurm` on a real SLURM of one node: sweeps, tasks, and what ends a job early.

Needs root and Debian's slurm-wlm and munge: apt-get install slurm-wlm munge. tests/helpers/slurm.sh starts it.
"""

import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from localsl.config import compose
from localsl.runs.identity import run_directory
from tests.conftest import ROOT, environment
from tests.helpers.runs import assert_same, left_by

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin"

RUN = ["schedule=smoke", "schedule.warmup_epochs=0", "threads=1", "backbone=resnet20", "K=3", "device=cpu"]
RUN += ["dataset.train_subset=64", "dataset.test_subset=20", "batch_size=32"]
SLURM = ["-m", "hydra/launcher=submitit_slurm"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment of commands that speak to it."""
    missing = [name for name in NEEDED if shutil.which(name, path=SBIN) is None]
    if missing:
        pytest.skip(f"there is no {missing[0]}: apt-get install slurm-wlm munge")
    if os.getuid():
        pytest.skip("slurmd is started by root only")
    folder = tmp_path_factory.mktemp("slurm")
    around = environment(ROOT, PATH=SBIN, SLURM_CONF=str(folder / "slurm.conf"), OMP_NUM_THREADS="1")
    script = ["bash", str(ROOT / "tests" / "helpers" / "slurm.sh")]
    begun = subprocess.run([*script, "start", str(folder)], env=around, capture_output=True, text=True)
    try:
        if begun.returncode:
            pytest.skip(f"SLURM does not start here: {begun.stderr.strip()}")
        yield around
    finally:
        subprocess.run([*script, "stop", str(folder)], env=around)


def started(around, *arguments):
    command = [sys.executable, str(ROOT / "run.py"), *RUN, *arguments]
    return subprocess.Popen(command, env=around, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def done(process, code=0):
    """What a command printed."""
    told, _ = process.communicate(timeout=900)
    assert process.returncode == code, told
    return told


def undisturbed(around, *arguments):
    """What the same run leaves without SLURM."""
    done(started(around, *arguments, "output_dir=straight"))
    return left_by(compose([*RUN, *arguments, "output_dir=straight"]))


def epochs(cfg):
    """How many a run has recorded."""
    file = run_directory(cfg) / "metrics.csv"
    return len(file.read_text().splitlines()) - 1 if file.exists() else 0


def test_a_sweep(slurm):
    typed = ["schedule.epochs=3"]
    told = done(started(slurm, *SLURM, *typed, "seed=1,2"))
    assert "Files:" in told
    for seed in ("seed=1", "seed=2"):
        assert_same(left_by(compose([*RUN, *typed, seed])), undisturbed(slurm, *typed, seed))
    assert list(Path("outputs/.submitit").glob("*/*_submission.sh"))


def test_processes_are_tasks(slurm, monkeypatch):
    typed = ["schedule.epochs=3", "processes=2"]
    done(started(slurm, *SLURM, *typed, "hydra.launcher.tasks_per_node=2"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    here = [str(ROOT / "run.py"), *RUN, *typed, "output_dir=straight"]
    subprocess.run([*torchrun, *here], env=slurm, check=True, capture_output=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    one, other = (left_by(compose([*RUN, *typed, f"output_dir={name}"])) for name in ("outputs", "straight"))
    assert one[2]["processes"] == 2
    assert_same(one, other)


def test_a_job_that_is_requeued_goes_on(slurm):
    typed = ["schedule.epochs=40", "checkpoint.every=5"]
    cfg = compose([*RUN, *typed])
    process = started(slurm, *SLURM, *typed)
    while epochs(cfg) < 7 and process.poll() is None:
        time.sleep(0.1)
    (job,) = subprocess.run(
        ["squeue", "-h", "-o", "%A"], env=slurm, capture_output=True, text=True
    ).stdout.split()
    subprocess.run(["scontrol", "requeue", job], env=slurm, check=True)
    done(process)
    (log,) = Path("outputs/.submitit").glob("*/*_log.out")
    assert "resuming after" in log.read_text()
    assert_same(left_by(cfg), undisturbed(slurm, *typed))


def test_a_time_limit_in_the_middle_of_a_run(slurm):
    """SLURM looks at limits every half minute: the run has to last for longer than the least one, a minute."""
    few = ["schedule.epochs=10", "output_dir=few"]
    began = compose([*RUN, *few])
    done(started(slurm, *few))
    seconds = left_in(began)
    typed = [f"schedule.epochs={math.ceil(10 * 120 / seconds)}", "checkpoint.every=2"]
    cfg = compose([*RUN, *typed])
    limit = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20"]
    told = done(started(slurm, *SLURM, *typed, *limit), code=1)
    assert "1 of 1 jobs failed" in told
    assert 0 < epochs(cfg) < cfg.schedule.epochs
    done(started(slurm, *SLURM, *typed))
    logs = "".join(log.read_text() for log in Path("outputs/.submitit").glob("*/*_log.out"))
    assert "resuming after" in logs
    assert_same(left_by(cfg), undisturbed(slurm, *typed))


def left_in(cfg):
    """How many seconds a run took."""
    from localsl.runs import stored

    record = stored.read_record(cfg)
    assert record is not None
    return record["seconds"]
