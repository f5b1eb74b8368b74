"""The files, printed lines and W&B logs of a run."""

import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from localsl.config import ConfigError, compose
from localsl.runs import classification, experiment, stored, tracking
from localsl.runs.identity import cell_id, kept_directory, run_directory, run_id
from tests.helpers.runs import columns
from tests.helpers.wandb import FakeWandB

TINY = ["schedule=smoke", "schedule.epochs=2", "K=2", "backbone=resnet20"]
TINY += ["dataset.train_subset=40", "dataset.test_subset=20", "batch_size=20"]


def test_a_run_writes_its_configuration_metrics_and_record(capsys):
    cfg = compose(TINY)
    record = experiment.run(cfg)
    folder = run_directory(cfg)
    assert sorted(file.name for file in folder.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "record.json",
    ]
    metrics = columns(folder / "metrics.csv")
    assert ",".join(metrics) == (
        "epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy,images_per_s,"
        "module_0_loss,module_0_accuracy,module_1_loss,module_1_accuracy"
    )
    assert metrics["epoch"] == ["1", "2"]
    assert metrics["train_loss"] == metrics["module_1_loss"]
    assert json.loads((folder / "record.json").read_text()) == record
    assert record is not None
    assert record["status"] == "done"
    accuracies = [float(value) for value in metrics["test_accuracy"]]
    assert record["last"]["test_accuracy"] == accuracies[-1]
    assert record["best"]["test_accuracy"] == max(accuracies)
    assert record["best"]["epoch"] == 1 + accuracies.index(max(accuracies))
    assert record["parameters"]["backbone"] == 272_474
    assert record["parameters"]["with_auxiliary"] > 272_474
    assert record["peak_memory_bytes"] > 0
    assert record["seconds"] > 0
    assert set(record["versions"]) == {"python", "torch", "torchvision", "numpy"}
    keys = {"device", "threads", "commit", "id", "modules", "seed", "precision", "schedule", "epochs"}
    assert keys <= set(record)
    printed = capsys.readouterr().out
    assert "epoch 1/2" in printed
    assert "272,474 in the backbone" in printed


def test_a_finished_run_is_not_repeated_and_its_record_is_printed(capsys):
    cfg = compose(TINY)
    experiment.run(cfg)
    metrics = run_directory(cfg) / "metrics.csv"
    before = metrics.stat().st_mtime_ns
    capsys.readouterr()
    assert experiment.run(cfg) == stored.read_record(cfg)
    assert metrics.stat().st_mtime_ns == before
    assert "This run is done" in capsys.readouterr().out


@pytest.mark.parametrize("required", [False, True])
def test_a_run_kept_among_the_results_is_finished_unless_its_checkpoint_is_required(required):
    cfg = compose([*TINY, f"checkpoint.required={required}".lower()])
    record = {"status": "done", "method": "dgl"}
    kept_directory(cfg).mkdir(parents=True)
    (kept_directory(cfg) / "record.json").write_text(json.dumps(record))
    (run,) = stored.planned_runs([cfg])
    if required:  # results keep no checkpoints
        assert (run.folder, run.record["status"]) == (run_directory(cfg), "not run")
    else:
        assert (run.folder, run.record) == (kept_directory(cfg), record)


def test_an_interrupted_run_is_recorded_as_such_and_resumes(monkeypatch):
    cfg = compose(TINY)
    with monkeypatch.context() as patch:
        patch.setattr(classification, "evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            experiment.run(cfg)
    record = stored.read_record(cfg)
    assert record is not None
    assert record["status"] == "interrupted"
    resumed = experiment.run(cfg)
    assert resumed is not None
    assert resumed["status"] == "done"
    assert columns(run_directory(cfg) / "metrics.csv")["epoch"] == ["1", "2"]


def test_a_run_whose_loss_is_not_finite_has_diverged_and_names_the_module():
    cfg = compose([*TINY, "optimizer.lr=1e30", "schedule.warmup_lr=1e30"])
    with pytest.raises(experiment.Diverged, match=r"module \d is (nan|inf) in epoch 1 at learning rate 1e\+30"):
        experiment.run(cfg)
    record = stored.read_record(cfg)
    assert record is not None
    assert record["status"] == "diverged"


def test_a_run_whose_test_loss_is_not_finite_has_diverged():
    steps = ["schedule.epochs=1", "batch_size=40", "optimizer.lr=1e30", "schedule.warmup_lr=1e30"]
    with pytest.raises(experiment.Diverged, match="the test loss is"):
        experiment.run(compose([*TINY, *steps]))


def test_an_incomplete_record_is_ignored():
    cfg = compose(TINY)
    run_directory(cfg).mkdir(parents=True)
    for text in ("", "{}", '{"sta', "[]"):
        (run_directory(cfg) / "record.json").write_text(text)
        assert stored.read_record(cfg) is None


def test_an_output_folder_that_cannot_be_written_is_reported():
    Path("taken").write_text("a file")
    with pytest.raises(ConfigError, match="output_dir=taken"):
        experiment.run(compose([*TINY, "output_dir=taken"]))


def test_a_run_whose_wandb_logger_cannot_start_has_failed(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "garbage")
    cfg = compose([*TINY, "logger=wandb"])
    with pytest.raises(ConfigError, match="W&B cannot start"):
        experiment.run(cfg)
    record = stored.read_record(cfg)
    assert record is not None
    assert record["status"] == "failed"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("getpwuid(): uid not found: 4711"), "getpwuid(): uid not found: 4711"),
        (RuntimeError("Could not determine home directory."), "Could not determine home directory."),
        (ValueError("1 validation error for Settings\nrun_tags\n too long"), "Settings run_tags too long"),
        (OSError(30, "Read-only file system"), "Read-only file system"),
    ],
)
def test_the_reason_why_wandb_cannot_start_is_reported(error, words, monkeypatch):
    def init(**_):
        raise error

    monkeypatch.setattr("wandb.init", init)
    with pytest.raises(ConfigError) as raised:
        experiment.run(compose([*TINY, "logger=wandb", "logger.mode=offline"]))
    assert words in str(raised.value)
    assert "logger=csv" in str(raised.value)


def test_a_wandb_server_that_is_down_is_reported_before_training(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as bound:  # nobody listens on its port
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setattr("wandb.setup", lambda: SimpleNamespace(settings=SimpleNamespace(base_url=url)))
        with pytest.raises(ConfigError, match=f"{url} does not answer"):
            experiment.run(compose([*TINY, "logger=wandb", "logger.mode=online"]))
        monkeypatch.setenv("https_proxy", "http://proxy:1")
        tracking._check_reachable(url)


def test_wandbs_mode_may_be_written_in_capitals(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "OFFLINE")
    assert tracking._wandb_mode("auto") == "offline"
    assert os.environ["WANDB_MODE"] == "offline"


@pytest.mark.parametrize("tag", ["", "x" * 65])
def test_tags_that_wandb_does_not_accept_are_refused(tag):
    with pytest.raises(ConfigError, match="1 to 64 characters"):
        compose([f"logger.tags=['{tag}']"])
    assert compose([f"logger.tags=['{'x' * 64}']"])


def test_runs_of_one_rule_are_distinguished_by_the_settings_that_differ():
    configs = [compose([*TINY, "seed=1", f"optimizer.lr={lr}"]) for lr in (0.05, 0.2)]
    configs += [compose([*TINY, "seed=1", "method=bp"])]
    planned = stored.distinctions(stored.planned_runs(configs), configs)
    assert planned == [{"optimizer.lr": "0.05"}, {"optimizer.lr": "0.2"}, {"optimizer.lr": ""}]
    for cfg in configs:
        experiment.run(cfg)
    found = stored.distinctions(stored.found_runs("outputs"))
    assert sorted(row["optimizer.lr"] for row in found) == ["", "0.05", "0.2"]
    assert stored.distinctions(stored.planned_runs(configs[1:]), configs[1:]) == [{}, {}]


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        (["schedule.epochs=1", "schedule.warmup_epochs=0"], True),
        (["schedule.epochs=2", "schedule.warmup_epochs=1", "schedule.warmup_lr=0"], True),
        (["schedule.epochs=1", "schedule.warmup_epochs=1"], False),
        (["schedule.epochs=1", "schedule.warmup_epochs=0", "schedule.zero_based=true"], False),
        (["schedule.epochs=2", "schedule.warmup_epochs=0"], False),
    ],
)
def test_a_learning_rate_that_is_always_0_is_warned_about(overrides, warned):
    cfg = compose(["backbone=resnet20", "K=2", *overrides])
    assert ("the learning rate is 0 in every epoch" in experiment.describe(cfg, "")) == warned


def test_wandb_receives_the_metrics_and_the_record_and_is_closed_on_failure(monkeypatch):
    runs, arguments = [], []

    def init(**kwargs):
        arguments.append(kwargs)
        runs.append(FakeWandB())
        return runs[-1]

    monkeypatch.setattr("wandb.init", init)
    cfg = compose([*TINY, "logger=wandb", "seed=3"])
    record = experiment.run(cfg)
    folder = run_directory(cfg)
    metrics = columns(folder / "metrics.csv")
    assert [{k: str(v) for k, v in row.items()} for row in runs[0].rows] == [
        {key: values[i] for key, values in metrics.items()} for i in range(2)
    ]
    assert runs[0].summary == record
    assert runs[0].exit_code == 0
    assert arguments[0]["id"] == run_id(cfg)
    assert arguments[0]["group"].endswith(cell_id(cfg))
    assert arguments[0]["mode"] == "offline"
    with pytest.raises(experiment.Diverged):
        experiment.run(compose([*TINY, "logger=wandb", "optimizer.lr=1e30", "schedule.warmup_lr=1e30"]))
    assert runs[1].exit_code == 1


@pytest.mark.slow
def test_wandb_offline_writes_a_run():
    cfg = compose([*TINY, "logger=wandb"])
    experiment.run(cfg)
    assert list(run_directory(cfg).glob("wandb/offline-run-*/*.wandb"))
