"""The papers' tables: their numbers, the cells and runs they ask for, and how results are rendered."""

import csv
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from localsl.cli import tables as command
from localsl.cli.command_line import check_command_line
from localsl.config import ConfigError, compose
from localsl.measure.records import recorded
from localsl.published import numbers as published
from localsl.published.numbers import KEYS
from localsl.runs import experiment, lock, provenance, tracking
from localsl.tables import estimate, records, reductions, render, results, structures, sweep_files, sweeps
from localsl.tables.results import Composed
from tests.conftest import ROOT
from tests.helpers.command import records as written
from tests.helpers.command import typed

# Cells, numbers and the sum of the numbers, of the papers' own tables.
PRINTED = {
    "auglocal/table1": (54, 54, 4721.5),
    "auglocal/table2": (12, 12, 1130.22),
    "auglocal/table3": (7, 14, 1150.87),
    "auglocal/table4": (9, 9, 345.6),
    "auglocal/table5": (40, 40, 3564.22),
    "auglocal/table6": (12, 12, 0),
    "auglocal/table7": (10, 39, 2137.41),
    "auglocal/table8": (15, 15, 1410.05),
    "auglocal/table9": (20, 20, 1762.4),
    "auglocal/table10": (7, 7, 633.73),
    "auglocal/table11": (25, 25, 27.63),
    "auglocal/table12": (2, 12, 509.5),
    "auglocal/table13": (16, 16, 1495.59),
    "man/table1": (78, 78, 1186.48),
    "man/table2": (18, 36, 539.56),
    "man/table3": (15, 15, 213.52),
    "man/table4": (6, 9, 119.31),
    "man/table5": (6, 9, 124.64),
    "mlaan/table1": (66, 66, 763.51),
    "mlaan/table2": (9, 18, 331.19),
    "mlaan/table3": (10, 10, 125.71),
    "mlaan/table4": (4, 4, 36.54),
    "mlaan/table5": (4, 4, 43.3),
    "mlaan_preprint/table1": (66, 66, 763.51),
    "mlaan_preprint/table2": (6, 12, 176.44),
    "mlaan_preprint/table3": (10, 10, 125.71),
    "mlaan_preprint/table4": (4, 4, 36.54),
    "mlaan_preprint/table5": (4, 4, 43.3),
}

TINY = ["schedule=smoke", "dataset=digits", "dataset.train_subset=40", "dataset.test_subset=20"]
TINY += ["batch_size=20", "threads=1"]
# Six cells, three of them for ImageNet, whose rows are top-1 and top-5.
ABLATION = ["-m", "sweep=man/table4", "backbone=resnet20", "K=4", *TINY]
ABLATION += ["backbone.blocks=[1,1,1]", "backbone.name=tiny", "dataset.top5=true"]
CSV = Path("outputs/results/man/table4.csv")


def rows_of(file):
    with Path(file).open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_there_is_a_file_for_every_table():
    assert sorted(sweep_files.every()) == sorted(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_every_number_has_one_cell_and_every_cell_a_number(name):
    table, numbers = sweep_files.read(name), published.read(name)
    values = [float(n.value) for n in numbers if n.metric != "structure"]
    assert (len(table.cells), len(numbers), round(sum(values), 2)) == PRINTED[name]
    assert all(cell.numbers for cell in table.cells)
    tied = [number for cell in table.cells for number in cell.numbers]
    assert Counter(tied) == Counter(numbers)
    assert len({(n.keys, n.metric) for n in numbers}) == len(numbers)
    assert {*table.layout["rows"], *table.layout["columns"]} <= {*KEYS, "metric"}


def test_every_number_is_in_exactly_one_row_of_its_table():
    request = sweeps.requested(["sweep=all"])
    found = Counter(
        (table.name, *(row[k] for k in (*KEYS, "metric", "paper_mean", "paper_std")))
        for table in request.tables
        for row in results.rows(table, Composed(request, {}), [])
    )
    expected = [
        (name, *n.keys, n.metric, n.value, n.std) for name in sweep_files.every() for n in published.read(name)
    ]
    assert found == Counter(expected)
    assert len(expected) == 620


@pytest.mark.parametrize(
    ("name", "cells", "runs"),
    [("auglocal/table1", 54, 162), ("man/table1", 78, 390), ("mlaan/table1", 66, 198)],
)
def test_runs_of_the_main_tables(name, cells, runs):
    request = sweeps.requested([f"sweep={name}"])
    assert len(request.tables[0].cells) == cells
    assert len(request.jobs) == runs
    assert len(sweeps.requested([f"sweep={name}", "seed=3"]).jobs) == cells


def test_cells_that_papers_share_are_run_once():
    alone = [set(sweeps.requested([f"sweep={p}/table1"]).jobs) for p in ("man", "mlaan")]
    runs = {(job.overrides, job.seed) for jobs in alone for job in jobs}
    both = sweeps.requested(["sweep=man/table1,mlaan/table1"]).jobs
    assert {(job.overrides, job.seed) for job in both} == runs
    assert len(both) == len(runs) == 390 + 198 - 3 * 30
    shared = next(job for job in both if "method=bp" in job.overrides and job.seed == 0)
    assert shared.tables == ("man/table1", "mlaan/table1")
    assert all(set(job.tables) == {"man/table1"} for job in both if job.seed == 4)


def test_what_is_typed_replaces_a_cells_own():
    jobs = sweeps.requested(["sweep=mlaan/table5", "dataset=digits", "schedule=smoke", "seed=0"]).jobs
    assert sorted(job.typed for job in jobs)[0] == [
        "method=dgl",
        "backbone=resnet110",
        "K=55",
        "dataset=digits",
        "schedule=smoke",
        "seed=0",
    ]
    assert not any("schedule.epochs=300" in job.overrides for job in jobs)
    for typed_too in ([], ["schedule=paper"]):
        paper = sweeps.requested(["sweep=mlaan/table5", "seed=0", *typed_too]).jobs
        assert sum("schedule.epochs=300" in job.overrides for job in paper) == 2
    rates = sweeps.requested(["sweep=man/table4", "optimizer.lr=0.1,0.2", "seed=0,1"]).jobs
    assert len(rates) == 6 * 2 * 2


def test_digits_make_the_datasets_of_a_table_one():
    assert len(sweeps.requested(["sweep=auglocal/table1", "dataset=digits"]).jobs) == 54


def test_measurements_alone_can_be_asked_for():
    arguments = ["sweep=auglocal/table7", "measure=memory,flops"]
    kinds = [job.overrides[-1] for job in sweeps.jobs(arguments)]
    assert set(kinds) == {"measure=memory", "measure=flops"}
    assert {job.overrides[-1] for job in sweeps.jobs(["sweep=auglocal/table7", "measure=flops"])} == {
        "measure=flops"
    }
    assert sweeps.jobs(["sweep=man/table5", "measure=memory"]) == []
    line = check_command_line(["-m", *arguments])
    assert len(line.jobs) > len(kinds)  # tables are rendered from all


@pytest.mark.parametrize(
    ("arguments", "key", "words"),
    [
        (["-m", "sweep=man/table9"], "sweep", "did you mean sweep=man/table"),
        (["sweep=man/table1"], "sweep", "add -m"),
        (["-m", "sweep=man/table4", "seed=x"], "seed", "whole number"),
        (["-m", "sweep=mlaan/table4", "K=99"], "K", "1 to 16"),
        (["-m", "sweep=man/table4", "measure=speed"], "measure", "memory, flops, overhead"),
        (["show=status"], "show", "sweep=table1"),
    ],
)
def test_a_mistake_in_a_sweep_is_told(arguments, key, words):
    with pytest.raises(ConfigError) as error:
        check_command_line(arguments)
    assert [problem.key for problem in error.value.problems] == [key]
    assert words in str(error.value)


def test_a_sweep_fills_its_table(monkeypatch, capsys):
    assert typed(monkeypatch, *ABLATION, "seed=0,1") == 0
    printed = capsys.readouterr().out
    assert "man/table4      6    12     0        0            0       12       0" in printed
    rows = rows_of(CSV)
    assert [row["status"][:9] for row in rows] == ["2 of 5 se"] * 3 + ["done"] * 6  # one seed on ImageNet
    by_seed = {(r["method"], r["seed"]): r for r in written()}
    assert len(by_seed) == 6  # all cells of man have the same name
    dgl = [100 - by_seed["dgl", seed]["last"]["test_accuracy"] for seed in (0, 1)]
    assert float(rows[0]["ours_mean"]) == pytest.approx(sum(dgl) / 2, abs=0.006)
    assert float(rows[0]["ours_std"]) == pytest.approx(abs(dgl[0] - dgl[1]) / 2**0.5, abs=0.006)
    assert float(rows[0]["difference"]) == pytest.approx(float(rows[0]["ours_mean"]) - 14.08, abs=0.006)
    assert (rows[0]["epochs"], rows[0]["measured_on"], rows[0]["modules"]) == ("3", "digits", "4")
    infopro = [100 - by_seed["infopro", seed]["last"]["test_top5_accuracy"] for seed in (0, 1)]
    assert [row["metric"] for row in rows[3:5]] == ["top1_error_pct", "top5_error_pct"]
    assert float(rows[4]["ours_mean"]) == pytest.approx(sum(infopro) / 2, abs=0.006)
    assert rows[0]["runs"] == f"{by_seed['dgl', 0]['id']} {by_seed['dgl', 1]['id']}"
    assert "14.08 / **" in CSV.with_suffix(".md").read_text()
    assert not Path("results").exists()  # smoke runs are no results

    before = CSV.read_text()
    monkeypatch.setattr(experiment, "_train", lambda *_: pytest.fail("a finished run was repeated"))
    assert typed(monkeypatch, *ABLATION, "seed=0,1") == 0
    assert CSV.read_text() == before
    assert typed(monkeypatch, *ABLATION, "seed=0,1,2", "show=status") == 0
    assert "man/table4      6    18    12        0            0        6       0" in capsys.readouterr().out


def test_a_failing_cell_does_not_stop_the_others(monkeypatch, capsys):
    train = experiment._train

    def failing(cfg, *more):
        if cfg.ema.bias == "none" and cfg.method.name == "man":
            raise RuntimeError("the disk is on fire")
        return train(cfg, *more)

    monkeypatch.setattr(experiment, "_train", failing)
    assert typed(monkeypatch, *ABLATION, "seed=0") == 1
    told = capsys.readouterr()
    assert "failed: method=man aux_net=dgl ema.bias=none" in told.err
    assert "RuntimeError: the disk is on fire" in told.err
    assert "2 of 6 jobs failed" in told.err
    assert "Traceback" not in told.err
    assert [row["n"] for row in rows_of(CSV)[:3]] == ["1", "", "1"]


@pytest.mark.parametrize("ends", [RuntimeError("runs"), SystemExit(143), KeyboardInterrupt()])
def test_an_error_in_rendering_never_hides_that_of_the_runs(ends, monkeypatch, capsys):
    def no_rendering(*_):
        raise OSError("no space left")

    monkeypatch.setattr(command.render, "write", no_rendering)
    line = check_command_line([*ABLATION, "seed=0", "results_dir=there"])
    monkeypatch.setattr(command, "_before", lambda _: "")
    with pytest.raises(type(ends)) as error, command.reporting(line):
        raise ends
    assert error.value is ends
    assert "the results cannot be rendered: OSError: no space left" in capsys.readouterr().err
    with pytest.raises(OSError, match="no space left"), command.reporting(line):
        pass


def finished(overrides, accuracy):
    cfg = compose(overrides)
    told = {"epoch": cfg.schedule.epochs, "test_accuracy": accuracy, "test_loss": 1.0}
    record = {
        "status": "done",
        "id": f"{accuracy:08.0f}",
        "seed": cfg.seed,
        "dataset": "cifar10",
        "modules": 16,
    }
    record |= {"schedule": "paper", "epochs": cfg.schedule.epochs, "precision": cfg.precision, "device": "cpu"}
    record["dataset"] = "cifar10"
    record |= {"images": {"train": 50_000, "test": 20}, "versions": {"torch": "2"}, "commit": None}
    run = records.Run(Path(), record | {"last": told, "best": told})
    vars(run)["values"] = asdict(cfg)  # as read from config.yaml
    return run


def test_runs_on_a_data_set_that_stands_in_for_several_are_shown_once():
    request = sweeps.requested(["sweep=auglocal/table1", "dataset=digits"])
    (table,) = request.tables
    alike = [cell for cell in table.cells if cell.keys[2:] == table.cells[0].keys[2:]]
    assert [cell.dataset for cell in alike] == ["cifar10", "svhn", "stl10"]
    configs = {overrides: compose(overrides) for cell in alike for overrides in request.overrides(cell)}
    run = finished([*request.overrides(alike[0])[0], "seed=0"], 50)
    made = results.rows(table, Composed(request, configs), [run])
    rows = [row for row in made if tuple(row[key] for key in KEYS[2:]) == table.cells[0].keys[2:]]
    assert [(row["ours_mean"], row["status"]) for row in rows] == [
        ("50.00", "1 of 3 seeds"),
        ("", "stand-in"),
        ("", "stand-in"),
    ]
    assert "the row of cifar10" in rows[1]["note"]


def test_settings_never_share_a_row():
    table = sweep_files.read("man/table4")
    dgl = table.cells[0].overrides
    runs = [
        finished([*dgl, "schedule.epochs=2", f"seed={seed}"], accuracy) for seed, accuracy in ((0, 50), (1, 60))
    ]
    runs.append(finished([*dgl, "schedule.epochs=3", "seed=0"], 90))
    made = results.rows(table, Composed(sweeps.requested(["sweep=man/table4"]), {dgl: compose(dgl)}), runs)
    first = [row for row in made if row["variant"] == "ema=0,bias=0" and row["part"] == "4a"]
    assert [(row["epochs"], row["n"], row["ours_mean"]) for row in first] == [(2, 2, "45.00"), (3, 1, "10.00")]
    told = render.markdown(table, made)
    assert "paper, then ours (schedule=paper with 2 epochs" in told
    assert "| ema=0,bias=0 | 14.08 / **45.00 ± 7.07** |" in told
    assert "| ema=0,bias=0 | 14.08 / **10.00** |" in told


def test_runs_of_an_earlier_default_are_shown_and_marked_until_there_are_as_many_others():
    table = sweep_files.read("man/table4")
    cell = next(cell for cell in table.cells if cell.formerly)
    request = sweeps.requested(["sweep=man/table4"])
    (now,), (former,) = request.overrides(cell), request.former_overrides(cell)
    assert former not in [job.overrides for job in request.jobs]
    composed = Composed(request, {overrides: compose(overrides) for overrides in (now, former)})
    runs = [finished([*former, f"schedule.epochs={epochs}"], 50) for epochs in (2, 3, 4)]
    runs.append(finished([*former, "schedule.epochs=4", "seed=1"], 50))
    runs += [finished([*now, f"schedule.epochs={epochs}"], 60) for epochs in (3, 4)]
    made = [row for row in results.rows(table, composed, runs) if row["ours_mean"]]
    note = "run with ema.bias_start=follower, an earlier default"
    shortened = "shortened: {} of 400 epochs, {} of 5 seeds"
    assert [(row["ours_mean"], row["status"], row["note"]) for row in made] == [
        ("40.00", shortened.format(3, 1), ""),
        ("40.00", shortened.format(4, 1), ""),
        ("50.00", "earlier form: " + shortened.format(2, 1), note),
        ("50.00", "earlier form: " + shortened.format(4, 2), note),
    ]
    told = render.markdown(table, made)
    assert "/ **50.00** (earlier form) |" in told
    assert "/ **40.00**; **50.00 ± 0.00** (earlier form) |" in told
    assert "****" not in told


def test_long_schedules_come_first_and_full_settings_before_checks():
    table = sweep_files.read("man/table4")
    dgl, man = (table.cells[i].overrides for i in (0, 1))
    runs = [finished([*dgl, "schedule.epochs=3", "precision=bf16", "seed=0"], 50)]
    runs += [finished([*typed_for, "schedule.epochs=3", "seed=0"], 50) for typed_for in (dgl, man)]
    runs.append(finished([*dgl, "schedule.epochs=4", "seed=0"], 50))
    composed = Composed(sweeps.requested(["sweep=man/table4"]), {cell: compose(cell) for cell in (dgl, man)})
    told = render.markdown(table, results.rows(table, composed, runs))
    heads = [line for line in told.splitlines() if "schedule=paper with" in line]
    ours = [(head.split(" epochs")[0][-1], head.rstrip(")").split(", ")[-1]) for head in heads]
    assert ours == [("4", "fp32"), ("3", "fp32"), ("3", "bf16")]


def test_different_networks_are_never_averaged():
    table = sweep_files.read("man/table4")
    dgl = table.cells[0].overrides
    kinds = [[*dgl, "seed=0", f"partition.stem={stem}"] for stem in ("own", "merged")]
    request = sweeps.requested(["sweep=man/table4", "partition.stem=own,merged"])
    configs = {overrides: compose(list(overrides)) for overrides in request.overrides(table.cells[0])}
    runs = [finished(kind, accuracy) for kind, accuracy in zip(kinds, (50, 60), strict=True)]
    made = results.rows(table, Composed(request, configs), runs)
    assert sorted(row["ours_mean"] for row in made if row["ours_mean"]) == ["40.00", "50.00"]
    assert request.varied


def test_what_changes_a_cell_is_no_result():
    settings = ["schedule=short", "optimizer.lr=0.1", "dataset.train_subset=100", "threads=2", "logger=wandb"]
    assert not sweeps.requested(["sweep=man/table4", *settings, "hydra/launcher=joblib"]).varied
    for typed_too in ("backbone=resnet20", "dataset=cifar10", "aux.feature_dim=64", "partition.stem=own"):
        assert sweeps.requested(["sweep=man/table4", typed_too]).varied


def test_operations_are_counted_once(monkeypatch, capsys):
    """Neither in a folder where they were counted, nor beside results that have them."""
    line = ["-m", "sweep=man/table4", "dataset=cifar10", "results_dir=there"]
    assert typed(monkeypatch, *line, "show=jobs", "output_dir=a") == 0
    told = capsys.readouterr().out.splitlines()[-5:-1]
    assert all(" x " in line for line in told)
    count = estimate.training_flops

    def of_this_machines_rate(cfg):
        assert cfg.method.name == "bp"
        return count(cfg)

    monkeypatch.setattr(estimate, "training_flops", of_this_machines_rate)
    assert typed(monkeypatch, *line, "show=jobs", "output_dir=a") == 0
    assert capsys.readouterr().out.splitlines()[-5:-1] == told
    Path("there/measured").mkdir(parents=True)
    Path("a/measured/training_flops.json").rename("there/measured/training_flops.json")
    assert typed(monkeypatch, *line, "show=jobs", "output_dir=b") == 0
    assert capsys.readouterr().out.splitlines()[-5:-1] == told


def test_a_table_without_runs_is_told_and_rendered(monkeypatch, capsys):
    assert typed(monkeypatch, "-m", "sweep=auglocal/table12", "show=jobs") == 0
    assert "4 missing" in capsys.readouterr().out
    assert not Path("results").exists()
    assert typed(monkeypatch, "-m", "sweep=auglocal/table12", "results_dir=there", "show=tables") == 0
    assert len(rows_of("there/auglocal/table12.csv")) == 12


def test_a_cell_of_300_epochs_takes_no_runs_of_400():
    table = sweep_files.read("mlaan/table5")
    cell = next(c for c in table.cells if "schedule.epochs=300" in c.overrides)
    cfg = compose(list(cell.overrides))
    runs = [finished([*cell.overrides[:-1], f"schedule.epochs={epochs}"], 90) for epochs in (300, 400)]
    made = results.rows(table, Composed(sweeps.requested(["sweep=mlaan/table5"]), {cell.overrides: cfg}), runs)
    assert [row["epochs"] for row in made if row["ours_mean"]] == [300]


@pytest.mark.parametrize(
    ("on_gpu", "ours", "of"),
    [
        (2.5e9, "2.50", "memory: CUDA allocator's peak of the second training step on H100"),
        (None, "1.50", "memory: live"),
    ],
)
def test_memory_is_a_gpus_where_it_was_measured_on_one(on_gpu, ours, of):
    table = sweep_files.read("mlaan/table3")
    cell = table.cells[0]
    asked = sweeps.measuring(cell.overrides, "memory")
    cfg = compose(list(asked))
    record = {"status": "done", "measure": "memory", "scope": "live", "precision": "fp32", "batch_size": 1024}
    record |= {"figures": {"peak_bytes": 1.5e9, "cuda_allocator_peak_bytes": on_gpu}, "modules": 16}
    record |= {"device": "H100", "versions": {"torch": "2"}, "commit": None}
    file = recorded(cfg, Path("results"))
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(record))
    made = results.rows(table, Composed(sweeps.requested(["sweep=mlaan/table3"]), {asked: cfg}), [])
    (row,) = (row for row in made if row["ours_mean"])
    assert (row["ours_mean"], row["measured_on"]) == (ours, of)
    assert (row["modules"], row["device"]) == (16, "H100")


def test_memory_that_a_paper_sums_is_that_of_all_processes():
    """Of one process where it does not, and measured without starting any."""
    request = sweeps.requested(["sweep=auglocal/table4"])
    cell = next(cell for cell in request.tables[0].cells if "processes=8" in cell.overrides)
    asked = sweeps.measuring(cell.overrides, "memory")
    record = {"figures": {"peak_bytes": 2e9}, "scope": "live", "precision": "fp32", "batch_size": 1024}
    record |= {"measure": "memory", "device": "CPU", "versions": {"torch": "2"}, "commit": None}
    for processes, ours in ((8, "16.00"), (1, "2.00")):
        row = results._result_of_measurement(cell.numbers[0], record | {"processes": processes}, "")
        assert row["ours_mean"] == ours
        assert ("per process, times 8 processes" in row["measured_on"]) == (processes == 8)
    of_mlaan = sweep_files.read("mlaan/table3").cells[0].numbers[0]
    assert results._result_of_measurement(of_mlaan, record | {"processes": 8}, "")["ours_mean"] == "2.00"
    line = check_command_line(["-m", "sweep=auglocal/table4"])  # no launcher of eight is asked for
    assert [cfg.processes for cfg in line.configs if cfg.measure == "memory"].count(8) == 4
    assert asked in [job.overrides for job in line.jobs]


def test_what_was_typed_beside_a_measured_table_is_told_and_not_mixed():
    table = sweep_files.read("mlaan/table3")
    cell = table.cells[0]
    request = sweeps.requested(["sweep=mlaan/table3", "batch_size=64,128", "memory=lean", "seed=0"])
    configs = {}
    for overrides, peak in zip(request.overrides(cell), (1e9, 2e9), strict=True):
        asked = sweeps.measuring(overrides, "memory")
        configs[asked] = cfg = compose(list(asked))
        record = {"status": "done", "measure": "memory", "scope": "live", "precision": "fp32"}
        record |= {"batch_size": cfg.batch_size, "figures": {"peak_bytes": peak}}
        record |= {"device": "CPU", "versions": {"torch": "2"}, "commit": None}
        file = recorded(cfg, Path("results"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record))
    made = results.rows(table, Composed(request, configs), [])
    text = render.markdown(table, made)
    for batch, value in ((64, "1.00"), (128, "2.00")):
        (block,) = (b for b in text.split("gpu_memory_gb: ") if f"typed: batch_size={batch} memory=lean" in b)
        assert f"/ **{value}**" in block


def test_an_overhead_is_one_of_every_machine_and_batch(monkeypatch):
    table = sweep_files.read("auglocal/table7")
    cell = next(cell for cell in table.cells if "method=dgl" in cell.overrides)
    asked = sweeps.measuring(cell.overrides, "overhead")
    record = {"status": "done", "measure": "overhead", "scope": "a step", "precision": "fp32", "threads": 2}
    record |= {"versions": {"torch": "2"}, "commit": None}
    for device, batch, ratio in (("CPU", 128, 1.25), ("GPU", 1024, 1.75)):
        monkeypatch.setattr(provenance, "device_name", lambda _, device=device: device)
        file = recorded(compose([*asked, f"batch_size={batch}"]), Path("results"))
        file.parent.mkdir(parents=True, exist_ok=True)
        told = {"device": device, "batch_size": batch, "figures": {"ratio_to_bp": ratio}}
        file.write_text(json.dumps(record | told))
    cfg = compose(list(asked))
    monkeypatch.setattr(provenance, "device_name", lambda _: "of who only renders")
    made = results.rows(table, Composed(sweeps.requested(["sweep=auglocal/table7"]), {asked: cfg}), [])
    found = {row["device"]: (row["ours_mean"], row["difference"]) for row in made if row["ours_mean"]}
    assert found == {"CPU": ("25.00", "-51.20"), "GPU": ("75.00", "-1.20")}
    text = render.markdown(table, made)
    for device, cells in (("128, CPU", "76.2 / **25.00**"), ("1024, GPU", "76.2 / **75.00**")):
        title = f"measured in turn, batch size {device}, 2 threads"
        (block,) = (part for part in text.split("wallclock_overhead_pct: ") if title in part)
        assert cells in block


def test_structures_are_the_papers():
    table = sweep_files.read("auglocal/table6")
    for cell in table.cells:
        paper = cell.numbers[0].value.replace(" - ", "-").replace("AP(1/4)", "AP").replace("AP(2x2)", "AP")
        assert structures.of_stage(cell) == paper


def test_a_dead_run_is_interrupted_and_a_live_one_running():
    cfg = compose(TINY)
    assert records.state(cfg) == "missing"
    with lock.exclusive(cfg):
        tracking.Tracker(cfg).start({"status": "running"})
        assert records.state(cfg) == "running"
    assert records.state(cfg) == "interrupted"


def process(*arguments):
    line = [sys.executable, str(ROOT / "run.py"), *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was():
    line = [*ABLATION, "seed=0,1"]
    assert process(*line, "output_dir=whole").wait() == 0
    killed = process(*line)
    while sum(r["status"] == "done" for r in written()) < 2:
        time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not CSV.exists()
    done = {f: f.stat().st_mtime_ns for f in Path("outputs").rglob("record.json") if '"done"' in f.read_text()}
    assert 2 <= len(done) < 12
    assert process(*line).wait() == 0
    assert all(file.stat().st_mtime_ns == before for file, before in done.items())
    assert CSV.read_text() == Path("whole/results/man/table4.csv").read_text()


@pytest.mark.slow
def test_two_processes_share_a_sweep():
    both = [process(*ABLATION, "seed=0,1") for _ in range(2)]
    told = [p.communicate()[0] for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert sum(text.count("\nwritten to ") for text in told) == 12
    assert all("\nwritten to " in text for text in told)  # neither only waited


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib hydra.launcher.n_jobs=2", "submitit_local"])
def test_launchers_give_the_same_table(launcher):
    assert process(*ABLATION, "seed=0").wait() == 0
    kind, *more = launcher.split()
    line = [*ABLATION, "seed=0", f"hydra/launcher={kind}", *more, "output_dir=other"]
    told = process(*line).communicate()[0]
    assert Path("other/results/man/table4.csv").read_text() == CSV.read_text(), told


def test_memory_is_compared_with_backpropagations():
    def row(method, paper, ours, of="live"):
        values = {"part": "", "dataset": "cifar10", "backbone": "resnet32", "method": method}
        values |= {"paper_mean": paper, "ours_mean": ours, "measured_on": of, "metric": "gpu_memory_gb"}
        return values | {"paper_reduction_pct": "", "ours_reduction_pct": ""}

    error = row("dgl", "9", "8") | {"metric": "top1_error_pct"}
    rows = [row("bp", "4.00", "2.00"), row("dgl", "1.00", "1.50"), row("man", "3.00", "1.00", "a GPU"), error]
    rows += [row("dgl", "1.00", "0.75", "lean"), row("bp", "4.00", "1.00", "lean")]
    made = reductions.add(rows)
    found = [(r["paper_reduction_pct"], r["ours_reduction_pct"]) for r in made]
    assert found == [("", ""), ("75.0", "25.0"), ("25.0", ""), ("", ""), ("75.0", "25.0"), ("", "")]


def test_a_smoke_sweep_runs_each_cell_once_unless_seeds_are_typed():
    smoke = ["sweep=man/table4", "schedule=smoke"]
    assert {job.seed for job in sweeps.requested(smoke).jobs} == {0}
    assert {job.seed for job in sweeps.requested([*smoke, "seed=1,2"]).jobs} == {1, 2}
    assert len({job.seed for job in sweeps.requested(["sweep=man/table4"]).jobs}) > 1
