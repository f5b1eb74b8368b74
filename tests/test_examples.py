"""The examples run as they stand, and what they teach holds."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT, environment

EXAMPLES = ROOT / "examples"


def ran(*line, package=ROOT, **more):
    where = environment(package, OMP_NUM_THREADS="1", **more)
    return subprocess.run(
        [sys.executable, *map(str, line)], capture_output=True, text=True, env=where, check=True
    ).stdout


def test_a_network_of_ones_own():
    told = ran(EXAMPLES / "own_model.py").splitlines()
    assert told[0] == "Digits can be cut after"
    accuracies = [float(line.split()[1]) for line in told if line.endswith("of the test images")]
    assert len(accuracies) == 2
    assert min(accuracies) > 90


def test_a_network_of_timm():
    told = ran(EXAMPLES / "timm_finetune.py", "resnet10t").split()
    before, after = float(told[3]), float(told[8])
    assert after < before / 2


def test_a_rule_of_ones_own_from_both_doors():
    assert len(ran(EXAMPLES / "new_rule.py").removeprefix("losses:").split()) == 2
    smoke = ["schedule=smoke", "schedule.epochs=1", "schedule.warmup_epochs=0", "dataset.train_subset=64"]
    smoke += ["dataset.test_subset=64", "backbone=resnet20", "K=4"]
    told = ran(EXAMPLES / "new_rule.py", "method=skipping", *smoke)
    assert "skipping on resnet20" in told
    assert Path("outputs/digits/skipping-resnet20-K4").is_dir()


def test_a_rule_is_under_forty_lines():
    source = (EXAMPLES / "new_rule.py").read_text()
    rule = source[source.index("@localsl.register") : source.index("def plain_loop")]
    assert len([line for line in rule.splitlines() if line.strip()]) < 40


def test_a_rule_with_the_name_of_another_is_refused():
    from localsl.methods import HeadMethod, register

    with pytest.raises(ValueError, match="is the name of another rule"):
        register(HeadMethod, "dgl")


@pytest.mark.slow
def test_a_wheel_holds_what_the_examples_and_the_command_line_need(tmp_path):
    source = tmp_path / "source"  # building writes beside the package
    for name in ("localsl", "conf", "sweeps", "hydra_plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    ran("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    assert (site / "localsl" / "conf" / "config.yaml").exists()
    assert (site / "localsl" / "sweeps" / "man" / "table1.yaml").exists()
    for example in ("own_model.py", "new_rule.py"):
        assert ran(EXAMPLES / example, package=site)
    told = ran("-m", "localsl", "method=auglocal", "aux.depth=2", "show=modules", package=site)
    assert "AugmentedHead" in told
