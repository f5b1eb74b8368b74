"""What a command line stands for."""

import pytest

from localsl.cli.command_line import MANY, check_command_line, quoted
from localsl.config import ConfigError


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
