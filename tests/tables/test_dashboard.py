"""What the W&B report shows is what runs log."""

import re
import sys

import pytest
import wandb

from hydra_plugins.localsl_sweeper import LocalslSweeper
from localsl.config.fields import leaves
from localsl.tables import dashboard, sweep_files, sweeps
from tests.helpers.command import SMALL, typed
from tests.helpers.wandb import FakeWandB


@pytest.fixture(scope="module")
def sections():
    return dashboard.sections(sweep_files.every())


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """What a tiny run gives W&B: the arguments of `wandb.init`, its rows and its summary."""
    given, run = {}, FakeWandB()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("logged"))
        patch.setattr("wandb.init", lambda **kwargs: given.update(kwargs) or run)
        tags = "logger.tags=[man,man/table4]"
        assert typed(patch, "method=man", *SMALL, "logger=wandb", "logger.mode=offline", tags) == 0
    assert run.exit_code == 0
    return given, run


def test_every_metric_of_a_panel_is_logged(logged):
    rows = logged[1].rows
    for panel in dashboard.PANELS:
        if panel["kind"] == "scatter":
            continue
        assert {*panel.get("metrics", []), panel.get("x", "epoch")} <= set(rows[0])
        if "pattern" in panel:
            assert len([key for key in rows[0] if re.fullmatch(panel["pattern"], key)]) == 2


def test_every_key_of_the_summary_is_logged(logged):
    summary = set(logged[1].rows[-1]) | set(logged[1].summary)
    used = set(dashboard.COLUMNS)
    for panel in dashboard.PANELS:
        if panel["kind"] == "scatter":
            used |= {panel["x"], panel["y"]}
    assert used <= summary


def test_every_key_of_the_configuration_is_logged(logged, sections):
    config = {key for key, _ in leaves(logged[0]["config"])}
    assert {key for section in sections for key in section.groups} <= config
    assert set(dashboard.NAMES.values()) <= config
    assert logged[0]["group"]


def test_every_tag_is_one_that_a_sweep_gives(logged, sections):
    jobs = sweeps.requested(["sweep=all"]).jobs
    trained = [job for job in jobs if job.seed is not None]  # measurements are not logged
    assert {section.tag for section in sections} == {tag for job in trained for tag in job.tables}
    assert "man/table4" in {section.tag for section in sections} & set(logged[0]["tags"])
    sweeper = LocalslSweeper()
    job = next(job for job in trained if "man/table4" in job.tables)
    tags = next(o for o in sweeper._typed(job, 0) if o.startswith("logger.tags="))
    assert "man/table4" in tags.removeprefix("logger.tags=")[1:-1].split(",")


def test_a_section_groups_by_what_differs_between_cells():
    [section] = dashboard.sections(["man/table4"])
    told = ["method.name", "dataset.name", "backbone.name", "K", "aux.head", "ema.bias", "recipe.name"]
    assert section.groups == told
    assert dashboard.sections(["auglocal/table6"]) == []  # no run measures it


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["localsl"], "'localsl' is not ENTITY/PROJECT"),
        (["me/localsl", "man/table9"], "did you mean sweep=man/table"),
        (["me/localsl", "auglocal/table6"], "no training runs belong to auglocal/table6"),
        (["me/localsl", "man/table4"], "pip install wandb-workspaces"),
    ],
)
def test_a_mistake_is_told(arguments, words, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setattr(wandb, "Api", lambda: pytest.fail("W&B was asked"))
    with pytest.raises(SystemExit) as end:
        dashboard.main(arguments)
    assert end.value.code != 0
    assert words in f"{capsys.readouterr().err}{end.value.code}"


def test_the_report_is_built(sections, monkeypatch):
    reason = "the report's package is optional: pip install wandb-workspaces"
    interface = pytest.importorskip("wandb_workspaces.reports.v2.interface", reason=reason)
    monkeypatch.setattr(interface, "_get_api", lambda: None)
    monkeypatch.setattr(interface, "execute_graphql", lambda *_: {"project": {"internalId": "1"}})
    report = dashboard.report("me", "localsl", sections)
    spec = report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    for section in sections:
        assert spec.count(f'"value":["{section.tag}"]') == 1
    for name in ("aux.value.head", "method.value.name", "summary:peak_memory_bytes", "test_accuracy", "group"):
        assert f'"{name}"' in spec
    for panel in dashboard.PANELS:
        assert spec.count(f'"chartTitle":"{panel["title"]}"') == len(sections)
