"""Whatever is typed, a run takes its step or ends with exit code 2 and the key: `make fuzz` tries 500 lists."""

import itertools
import os
import traceback

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localsl import backbones, methods
from localsl.config.fields import fields
from tests.conftest import ROOT
from tests.helpers.command import typed

EXAMPLES = int(os.environ.get("LOCALSL_FUZZ", "15"))

# One step on twenty images of 8x8.
TINY = ["dataset.train_subset=20", "dataset.test_subset=10", "schedule.epochs=1", "backbone=resnet20", "K=4"]

# Not a run's: what asks for the network, for minutes of compiling, for another command, or where files lie.
LEFT = ("data_dir", "output_dir", "results_dir", "sweep", "compile", "logger", "measure", "show", "analysis")
LEFT += ("runs", "dataset.name", "dataset.root", "device", "held", "checkpoint.required")

GROUPS = {"method": None, "aux_net": None, "ema": None, "optimizer": None, "schedule": ["smoke", "shrot"]}
GROUPS |= {"recipe": ["small", "man", "smal"]}
GROUPS |= {"dataset": ["digits", "imagefolder", "digit"], "backbone": ["resnet20", "resnet32", "resnet-20"]}

# Small enough to train on where they are allowed; most are not.
VALUES = ["-1", "0", "1", "2", "3", "4", "16", "0.5", "1e-3", "1e30", "nan", "inf", "abc", "null", "true", "''"]
VALUES += ["[]", "[1,2]", "[0.5,1]", "[1,2,3]", "{a:1}", "[[1],[2]]", "momentum", "merged", "bf16", "lean", "="]


def choices(group):
    names = GROUPS[group] or [file.stem for file in (ROOT / "conf" / group).glob("*.yaml")]
    return st.sampled_from([f"{group}={name}" for name in sorted(names)])


def keys():
    classes = itertools.product(map(methods.find, methods.names()), map(backbones.find, backbones.families()))
    found = {path for chosen in classes for path, _ in fields(*chosen)}
    return sorted(path for path in found if not path.startswith(LEFT))


def overrides():
    value = st.tuples(st.sampled_from(keys()), st.sampled_from(VALUES)).map("=".join)
    odd = st.sampled_from(
        ["+K=3", "~K", "K", "=3", "nokey=1", "K=1,2", "+aux.dept=3", "method.rule=man", "K=${K}"]
    )
    group = st.sampled_from(sorted(GROUPS)).flatmap(choices)
    return st.lists(st.one_of(group, value, value, odd), min_size=1, max_size=4, unique=True)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(typed_overrides=overrides())
def test_a_run_or_a_message(typed_overrides, tmp_path, capsys):
    """Diverging (3) is a run too: learning rates of 1e30 are allowed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        capsys.readouterr()
        try:
            code = typed(patch, *TINY, *typed_overrides)
        except Exception:
            pytest.fail(f"{typed_overrides}\n{traceback.format_exc()}")
        told = capsys.readouterr().err
    assert code in (0, 2, 3), (typed_overrides, told)
    assert "Traceback" not in told
    if code == 2:
        named = [o.split("=")[0].lstrip("+~") for o in typed_overrides if o.split("=")[0]]
        assert any(key.split(".")[0] in told for key in named) or "must be key=value" in told, (named, told)
