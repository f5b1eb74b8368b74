"""The command line: what users type, what they see, how the process ends."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT
from tests.helpers.command import SMALL, SMOKE, records, typed


def command(*arguments, **kwargs):
    line = [sys.executable, str(ROOT / "run.py"), *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, **kwargs)


@pytest.mark.parametrize("mistake", ["K=0", "K=99", "K=abc", "method=dlg", "+aux.dept=3", "optimizer.lr=-1"])
def test_a_mistake_ends_with_2_and_one_message(mistake, monkeypatch, capsys):
    assert typed(monkeypatch, mistake) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("1 problem in the configuration:\n")
    assert mistake.split("=")[0] in told.err
    assert "Traceback" not in told.err
    assert not Path("outputs").exists()


def test_missing_data_end_with_2(monkeypatch, capsys):
    def unreachable(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unreachable)
    assert typed(monkeypatch, "dataset=cifar10", "data_dir=nowhere") == 2
    told = capsys.readouterr().err
    assert "nowhere" in told
    assert "LOCALSL_DATA" in told
    assert "Traceback" not in told


def test_show_modules_prints_the_table_and_trains_nothing(monkeypatch, capsys):
    assert typed(monkeypatch, "show=modules", "dataset=cifar10", "backbone=resnet110", "K=55") == 0
    printed = capsys.readouterr().out
    assert "55 modules" in printed
    assert "1,730,714 in the backbone" in printed
    assert not Path("outputs").exists()


def test_bp_says_that_it_is_one_module(monkeypatch, capsys):
    assert typed(monkeypatch, "show=modules", "method=bp", "K=8") == 0
    assert "bp trains the network as one module, whatever the value of K" in capsys.readouterr().out


def test_hydras_own_flags_work(monkeypatch, capsys):
    assert typed(monkeypatch, "--cfg", "job", "K=4") == 0
    assert "K: 4" in capsys.readouterr().out
    assert typed(monkeypatch, "--help") == 0
    assert "dataset: cifar10, coco, digits" in capsys.readouterr().out


def test_a_sweep_leaves_a_record_each_and_a_table(monkeypatch, capsys):
    assert typed(monkeypatch, "-m", "method=bp,dgl", *SMALL) == 0
    assert sorted((r["method"], r["modules"]) for r in records()) == [("bp", 1), ("dgl", 2)]
    printed = capsys.readouterr().out
    assert "[2 of 2] method=dgl" in printed
    table = printed[printed.index("method  dataset") :]
    assert "peak memory" in table
    assert table.count("record.json") == 2
    assert typed(monkeypatch, "show=runs") == 0
    assert capsys.readouterr().out.strip() == table.strip()


def test_a_diverging_job_does_not_stop_a_sweep(monkeypatch, capsys):
    rates = "optimizer.lr=1e30,0.1"
    code = typed(monkeypatch, "-m", rates, "schedule.warmup_lr=1e30", *SMALL, "schedule.warmup_epochs=0")
    assert code == 1
    assert sorted(r["status"] for r in records()) == ["diverged", "done"]
    assert "diverged" in capsys.readouterr().out


def test_divergence_ends_with_3(monkeypatch, capsys):
    assert typed(monkeypatch, *SMALL, "optimizer.lr=1e30", "schedule.warmup_lr=1e30") == 3
    assert "diverged: the loss of module" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_same_metrics_and_another_seed_does_not():
    for seed, folder in ((0, "a"), (0, "b"), (1, "c")):
        done = command(f"seed={seed}", f"output_dir={folder}", "schedule=smoke", "threads=1")
        assert done.returncode == 0, done.stderr
    one, two, other = (
        pd.read_csv(next(Path(folder).rglob("metrics.csv"))).drop(columns="images_per_s") for folder in "abc"
    )
    assert len(one) == 3
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert not one["train_loss"].equals(other["train_loss"])


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals(sent, code):
    arguments = [sys.executable, str(ROOT / "run.py"), "schedule.epochs=1000"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "epoch" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert [r["status"] for r in records()] == ["interrupted"]


def seconds(line):
    start = time.perf_counter()
    subprocess.run(line, check=True, capture_output=True)
    return time.perf_counter() - start


@pytest.mark.slow
@pytest.mark.timing
def test_the_first_step_comes_soon_after_torchs_import():
    """A run of one step, its evaluation and record included, against importing torch; the best of three."""
    one_step = ["schedule.epochs=1", "dataset.train_subset=128", "dataset.test_subset=10"]
    pairs = [
        (
            seconds([sys.executable, str(ROOT / "run.py"), *one_step, f"seed={i}"]),
            seconds([sys.executable, "-c", "import torch"]),
        )
        for i in range(3)
    ]
    assert min(ours for ours, _ in pairs) <= 2.5 * min(torch for _, torch in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "at_least"), [("bp", 90), ("dgl", 90)])
def test_a_short_run_learns_the_digits(method, at_least):
    done = command(f"method={method}", "schedule.epochs=12", "schedule.warmup_epochs=2")
    assert done.returncode == 0, done.stderr
    (record,) = records()
    assert record["last"]["test_accuracy"] > at_least


@pytest.mark.slow
def test_the_same_run_twice_in_a_parallel_sweep_is_run_once():
    """bp is one run for every K: the second process waits for the first and tells its record."""
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "threads=1"]
    done = command("-m", "method=bp", "K=2,4", *parallel, *SMOKE)
    assert done.returncode == 0, done.stderr
    (metrics,) = Path("outputs").rglob("metrics.csv")
    assert list(pd.read_csv(metrics)["epoch"]) == [1, 2, 3]


@pytest.mark.slow
def test_ctrl_c_in_a_parallel_sweep_saves_every_run_at_its_last_step():
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "threads=1"]
    line = [sys.executable, str(ROOT / "run.py"), "-m", "method=bp", "seed=1,2,3", *parallel, "batch_size=32"]
    sweep = subprocess.Popen(
        [*line, "schedule.epochs=1000"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while len(list(Path("outputs").rglob("*.pt"))) < 2:  # both have trained an epoch
        assert sweep.poll() is None
        time.sleep(0.1)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does
    _, errors = sweep.communicate(timeout=120)
    assert sweep.returncode == 130
    assert "Traceback" not in errors
    assert [record["status"] for record in records()] == ["interrupted"] * 2  # the third was not started
    for run in Path("outputs").glob("*/*/*"):
        newest = max(tuple(map(int, re.findall(r"=(\d+)", file.name))) for file in run.rglob("*.pt"))
        assert newest[1] > 0, "resumed from its last epoch"


@pytest.mark.slow
@pytest.mark.parametrize(("method", "at_least"), [("dgl", 15), ("bp", 20)])
def test_real_cifar10(method, at_least, real_cifar10):
    """A minute's training is well above chance; README has the accuracies of longer runs."""
    settings = "dataset=cifar10 dataset.train_subset=2000 dataset.test_subset=1000 schedule.epochs=3"
    settings += " schedule.warmup_epochs=0 batch_size=64 optimizer.lr=0.1"
    line = [sys.executable, str(ROOT / "run.py"), f"method={method}", *settings.split()]
    subprocess.run(line, check=True, env=os.environ | {"LOCALSL_DATA": str(real_cifar10)}, timeout=900)
    (record,) = records()
    assert record["last"]["test_accuracy"] >= at_least


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            "method=dgl aux.depth=4",
            [
                "the depth decreases from module to module (aux.pyramid=0.5)",
                "the last 4 layers form one module",
            ],
        ),
        # The pyramid of tau = 0.5 leaves two hidden layers everywhere.
        ("method=dgl aux.depth=3", ["the last 3 layers form one module"]),
        ("method=infopro aux.depth=2", ["the last 2 layers form one module"]),
        ("method=predsim aux.depth=3 aux.pyramid=0 partition.join_last=false", []),
        ("method=auglocal aux.depth=3", None),
    ],
)
def test_a_depth_of_another_rule_is_told_with_all_that_it_changes(monkeypatch, capsys, overrides, told):
    assert typed(monkeypatch, "show=modules", *overrides.split()) == 0
    note = "note: aux.depth makes this a baseline of AugLocal's Table 9, not the plain rule: "
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: aux.depth")]
    changes = [] if told is None else [note + ", ".join(["its heads have another depth", *told])]
    assert found == changes


def test_a_plain_sweep_lists_its_runs_and_their_price(monkeypatch, capsys):
    assert typed(monkeypatch, "-m", "method=bp,dgl", "K=4", "show=jobs") == 0
    told = capsys.readouterr().out
    rows = [line.split() for line in told.splitlines() if line.startswith("missing")]
    assert [overrides for _, _, *overrides in rows] == [["method=bp", "K=4"], ["method=dgl", "K=4"]]
    assert "2 runs to do: about" in told
    assert [*Path("outputs").rglob("*")] == [
        Path("outputs/measured"),
        Path("outputs/measured/training_flops.json"),
    ]


def test_a_reader_that_has_gone_ends_what_is_printed_quietly():
    """As head does, behind a pipe."""
    for shown in ("show=runs", "show=modules", "--help"):
        read, write = os.pipe()
        os.close(read)
        line = [sys.executable, str(ROOT / "run.py"), *SMALL, shown]
        with os.fdopen(write, "w") as pipe:
            done = subprocess.run(line, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (1, "")


def test_the_rows_of_a_sweep_say_what_differs(monkeypatch, capsys):
    assert (
        typed(
            monkeypatch, *SMALL, "-m", "optimizer.lr=0.05,0.2", "schedule.epochs=1", "schedule.warmup_epochs=1"
        )
        == 0
    )
    told = capsys.readouterr().out
    assert "optimizer.lr" in told
    assert "0.05" in told
    assert typed(monkeypatch, "show=runs") == 0
    assert "0.05" in capsys.readouterr().out


def test_runs_at_home_make_no_folder_of_that_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    more = ["schedule.epochs=1", "schedule.warmup_epochs=1", 'output_dir="~/runs"']
    assert typed(monkeypatch, *SMALL, *more) == 0
    assert typed(monkeypatch, *SMALL, *more, "-m", "seed=1,2") == 0
    assert len(records(tmp_path / "home" / "runs")) == 3
    assert not Path("~").exists()


def test_a_list_of_runs_is_printed_once_whatever_is_swept(monkeypatch, capsys):
    assert typed(monkeypatch, "-m", "method=dgl,bp", "show=runs") == 0
    assert capsys.readouterr().out.count("no runs") == 1
