"""What a command line stands for."""

import re
import shlex

import pytest

from localsl.cli.command_line import MANY, check_command_line, quoted
from localsl.config import ConfigError, compose
from localsl.config.composition import CONF


def test_every_job_of_a_sweep_is_checked_before_the_first():
    configs = check_command_line(["-m", "method=bp,dgl", "K=8,16", "seed=0"]).configs
    assert [(c.method.name, c.K) for c in configs] == [
        ("bp", 8),
        ("bp", 16),
        ("dgl", 8),
        ("dgl", 16),
    ]
    with pytest.raises(ConfigError) as error:
        check_command_line(["-m", "method=bp,dgl", "K=16,99", "seed=-1,0"])
    assert sorted(p.key for p in error.value.problems) == ["K", "seed"]


def test_many_configurations_are_told_of(capsys):
    check_command_line(["-m", f"seed={','.join(map(str, range(MANY - 1)))}"])
    assert capsys.readouterr().err == ""
    check_command_line(["-m", f"seed={','.join(map(str, range(MANY)))}"])
    assert capsys.readouterr().err == f"checking {MANY} configurations ...\n"


def test_flags_that_only_print_are_left_to_hydra():
    assert check_command_line(["--cfg", "job", "K=0"]).jobs == []


def test_runs_are_quoted_for_hydra():
    line = ["runs=[a/seed=1-x, 1e123456]", "runs=a/*/*", "runs=['a b']", "K=3"]
    assert quoted(line) == ["runs=['a/seed=1-x','1e123456']", "runs=['a/*/*']", "runs=['a b']", "K=3"]
    (cfg,) = check_command_line(quoted(["analysis=cka", line[0]])).configs
    assert cfg.runs == ["a/seed=1-x", "1e123456"]


def test_flags_may_stand_anywhere():
    assert quoted(["K=3", "-m", "seed=1,2"]) == ["-m", "K=3", "seed=1,2"]
    assert quoted(["K=3", "--cfg", "job", "seed=1"]) == ["--cfg", "job", "K=3", "seed=1"]
    assert quoted(["K=3", "--info", "seed=1"]) == ["--info", "K=3", "seed=1"]
    assert quoted(["K=3", "--info", "config", "seed=1"]) == ["--info", "config", "K=3", "seed=1"]
    assert quoted(["K=3", "--cfg=job", "~x"]) == ["--cfg=job", "K=3", "~x"]
    jobs = check_command_line(quoted(["K=3", "-m", "seed=1,2", "backbone=resnet20"])).configs
    assert [cfg.seed for cfg in jobs] == [1, 2]


@pytest.mark.parametrize("key", ["output_dir", "results_dir", "data_dir", "++output_dir"])
@pytest.mark.parametrize("typed", ["~/runs", '"~/runs"', "'~/runs'"])
def test_a_folder_at_home_is_there(key, typed, monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    assert quoted([f"{key}={typed}"]) == [f'{key}="/home/anna/runs"']
    (cfg,) = check_command_line(quoted([f"{key}={typed}"])).configs
    assert getattr(cfg, key.lstrip("+")) == "/home/anna/runs"


def test_a_folder_at_home_that_is_not_typed(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setenv("LOCALSL_DATA", "~/data")
    (cfg,) = check_command_line([]).configs
    assert cfg.data_dir == "/home/anna/data"
    assert quoted(["output_dir=~anna/x", "output_dir=a~"]) == ["output_dir=~anna/x", "output_dir=a~"]


@pytest.mark.parametrize("value", ["/a/lr=0.1", "/a/b (1)", "/a,b", 'a "b"=c', "~x/=", "/a/{b", "it's=1"])
def test_what_is_said_to_type_can_be_typed(value):
    """As a shell reads it, for the value that was meant."""
    with pytest.raises(ConfigError) as error:
        compose([f"output_dir={value}"])
    (problem,) = error.value.problems
    (told,) = re.findall(
        r"type (.*?)(?: if it is one value)?$", problem.instead.partition("; ")[2] or problem.instead
    )
    assert compose(shlex.split(told)).output_dir == value


def choices_of_my_own(place):
    (place / "optimizer").mkdir(parents=True)
    (place / "optimizer" / "mine.yaml").write_text((CONF / "optimizer" / "sgd.yaml").read_text() + "\n")
    (place / "mine").mkdir()
    (place / "mine" / "slow.yaml").write_text("# @package _global_\noptimizer: {lr: 0.003}\n")
    return place


def test_choices_in_other_folders_are_found(tmp_path):
    own = choices_of_my_own(tmp_path / "own")
    for typed in (
        ["--config-dir", str(own)],
        [f"hydra.searchpath=[file://{own}]"],
        [f"hydra.searchpath=[{own}]"],
    ):
        (cfg,) = check_command_line([*typed, "optimizer=mine", "+mine=slow"]).configs
        assert cfg.optimizer.lr == 0.003
    with pytest.raises(ConfigError, match="one of adam, adamw, mine, sgd"):
        check_command_line(["--config-dir", str(own), "optimizer=min"])
    with pytest.raises(ConfigError, match="one of adam, adamw, sgd"):
        check_command_line(["optimizer=mine"])


@pytest.mark.parametrize("flag", ["--config-dir", "--config-name", "--config-path", "--package"])
def test_flags_that_would_have_hydra_compose_something_else_are_refused(flag):
    with pytest.raises(ConfigError) as error:
        check_command_line([flag, "nowhere", "K=4"])
    assert [problem.key for problem in error.value.problems] == [flag]
