"""Processes that share out local modules do, bit for bit, what one process does."""

import contextlib
import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from timm.layers.patch_dropout import PatchDropout
from torch import nn
from torch.multiprocessing.spawn import spawn
from torchvision.ops import StochasticDepth

from localsl.cli import commands
from localsl.config import ConfigError, compose
from localsl.core.network import count_parameters
from localsl.core.objectives import open_cuts
from localsl.execution import handover, pipeline
from localsl.execution.balance import Turn, balanced, measured
from localsl.execution.pipeline import inexact, random_modules
from localsl.execution.processes import Votes
from localsl.measure import scaling
from localsl.measure.scaling import Module
from localsl.network import build_network
from localsl.runs import experiment, stored
from localsl.runs.identity import run_id
from localsl.tables import scaling as tables_scaling
from tests.conftest import ROOT, environment
from tests.helpers.runs import TINY, assert_same, children, left_by

pytestmark = pytest.mark.xdist_group("pipeline")  # whose fixture starts processes of its own

CASES = {
    "dgl": ["method=dgl"],
    "infopro": ["method=infopro"],
    "auglocal": ["method=auglocal", "aux.depth=3", "partition.join_last=false", "K=10"],
    "man": ["method=man", "K=10"],
    "predsim": ["method=predsim"],
    "predsim with dropout": ["method=predsim", "method.dropout=0.2"],
    "leap bridges": ["method=lam", "K=10"],
    "man, adam, lean": ["method=man", "aux_net=dgl", "K=10", "optimizer=adam", "memory=lean"],
    "man on infopro, per module": ["method=man", "aux_net=infopro", "K=10", "optimizer.per_module=true"],
    "man, copies": ["method=man", "ema.source=copy", "ema.bias=channel", "K=10"],
    "bf16": ["method=auglocal", "aux.depth=2", "precision=bf16", "K=10"],
    # With a seed of its own: the layout is no part of a run's identity.
    "layout": ["method=infopro", "channels_last=false", "seed=1"],
    "held-out images": ["method=dgl", "dataset.validation=10"],
    "timm": ["method=dgl", "backbone=timm/resnet10t", "K=4", "dataset.image_size=16", "aux_net=dgl"],
}
FAST = ("dgl", "man", "infopro")


def settings(case):
    return [*TINY, "schedule.epochs=2", "threads=1", *CASES[case]]


def process(rank, size, ports, cases):
    """One of several processes that train these cases one after another, each with a meeting of its own."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    for case, port in zip(cases, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        experiment.run(compose([*settings(case), "parallel=modules", f"output_dir=of-{size}"]))


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def agree(folder, cases, size):
    os.chdir(folder)
    spawn(process, (size, free_ports(len(cases)), cases), nprocs=size)
    for case in cases:
        together, alone = compose([*settings(case), f"output_dir=of-{size}"]), compose(settings(case))
        experiment.run(alone)
        (state, metrics, record), (wanted, metrics_wanted, _) = left_by(together), left_by(alone)
        wanted["network"] = dict(wanted["network"])
        peaks = state.pop("stage_peaks_bytes")
        assert len(peaks) == size
        assert max(peaks) < wanted.pop("peak_memory_bytes")
        assert state.pop("peak_memory_bytes") == max(peaks) == record["peak_memory_bytes"]
        assert_same(state, wanted)
        assert_same(metrics, metrics_wanted)


@pytest.fixture(scope="module")
def agreed(tmp_path_factory):
    """Folder in which two processes trained the fast cases, in one start."""
    folder, before = tmp_path_factory.mktemp("pipeline"), os.getcwd()
    yield folder
    os.chdir(before)


def test_two_processes_do_what_one_does(agreed):
    agree(agreed, FAST, 2)


@pytest.mark.slow
def test_two_processes_do_what_one_does_for_every_rule(agreed):
    agree(agreed, [case for case in CASES if case not in FAST], 2)


@pytest.mark.slow
def test_three_processes_do_what_one_does(agreed):
    agree(agreed, list(CASES), 3)


def started(size, *overrides):
    """A run of so many processes, started as users do."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={size}"]
    more = ["parallel=modules"] if size > 1 else []
    command = command if size > 1 else [sys.executable]
    return subprocess.Popen(
        [*command, str(ROOT / "run.py"), *LONG, *more, *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


LONG = [*TINY, "schedule.epochs=12", "threads=1", "method=man", "K=10"]


def hurt(run, number, rank=1, after=" 2/12", within=0.5):
    """Send a signal to one process of a run, at a random moment within seconds of an epoch's line."""
    assert run.stdout is not None
    while after not in (line := run.stdout.readline()):
        assert line, run.communicate()
    time.sleep(random.random() * within)
    workers = children(run.pid) or [run.pid]
    os.kill(workers[rank if len(workers) > 1 else 0], number)
    run.communicate(timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "sizes"),
    [(signal.SIGKILL, (2, 2)), (signal.SIGTERM, (2, 2)), (signal.SIGTERM, (2, 1, 2)), (signal.SIGTERM, (1, 3))],
)
def test_a_run_goes_on_with_as_many_processes_or_others(number, sizes):
    straight, broken = (compose([*LONG, f"output_dir={name}"]) for name in ("straight", "broken"))
    experiment.run(straight)
    for index, size in enumerate(sizes[:-1]):
        run = started(size, "output_dir=broken")
        hurt(run, number, **{} if index == 0 else {"after": "/12", "within": 0.0})
        assert run.returncode not in (0, None)
        if number == signal.SIGTERM:
            record = stored.read_record(broken)
            assert record is not None
            assert record["status"] == "interrupted"
    run = started(sizes[-1], "output_dir=broken")
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert "resuming after" in out
    (state, metrics, _), (wanted, metrics_wanted, _) = left_by(broken), left_by(straight)
    for one in (state, wanted):
        one["network"] = dict(one["network"])
        for name in ("peak_memory_bytes", "stage_peaks_bytes"):
            one.pop(name, None)
    assert_same(state, wanted)
    assert_same(metrics, metrics_wanted)


@pytest.mark.slow
def test_a_loss_that_diverges_in_the_second_process_ends_both():
    run = started(2, "optimizer.lr=1e30", "schedule.warmup_lr=1e30", "output_dir=broken")
    _, err = run.communicate(timeout=120)
    assert run.returncode != 0
    assert err.count("diverged: the loss of module") == 1
    (record,) = (json.loads(file.read_text()) for file in Path("broken").rglob("record.json"))
    assert record["status"] == "diverged"


def test_modules_are_shared_out_by_what_they_cost():
    assert balanced([4, 1, 1, 1, 1], 2, range(1, 5)).stages == [range(1), range(1, 5)]
    found = balanced([1, 1, 1, 5], 3, [2, 3])
    assert found.stages == [range(2), range(2, 3), range(3, 4)]
    assert found.limit == pytest.approx(8 / 5)
    assert sum(found.shares) == pytest.approx(1)


def test_no_process_begins_inside_a_cascade():
    cfg = compose([*TINY, "method=mlaan", "method.cascade=2"])
    network = build_network(cfg)
    assert open_cuts([module.objective for module in network.local_modules]) == []
    cfg = compose([*TINY, "method=lam"])
    assert open_cuts([module.objective for module in build_network(cfg).local_modules]) == [1, 2, 3]


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["method=bp"], "parallel", "bp trains one module"),
        (["method=mlaan"], "parallel", "can be separated nowhere"),
        (["method=mlaan"], "parallel", "type parallel=data, or choose a rule without cascades"),
        (["method=dgl", "K=1"], "parallel", "one module"),
        (["method=dgl", "cuda_graph=true"], "cuda_graph", "single process"),
        (["method=dgl", "sync_batchnorm=true"], "sync_batchnorm", "the whole batch"),
    ],
)
def test_what_cannot_be_shared_out(overrides, key, words, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert compose([*TINY, "method=dgl", "parallel=modules", "batch_size=19"]).processes == 2
    with pytest.raises(ConfigError) as error:
        compose([*TINY, "parallel=modules", *overrides])
    assert any(problem.key == key and words in str(problem) for problem in error.value.problems)


def test_the_number_of_processes_is_no_part_of_such_a_run(monkeypatch):
    alone = run_id(compose(TINY))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_id(compose([*TINY, "parallel=modules"])) == alone
    assert run_id(compose(TINY)) != alone


def test_random_numbers_that_only_one_process_could_draw_are_refused():
    network = build_network(compose([*TINY, "method=predsim", "method.dropout=0.1"]))
    stages = [range(2), range(2, 4)]
    assert inexact(network, stages) == ""
    cast("torch.nn.Sequential", network.backbone.classifier).append(torch.nn.Dropout(0.5))
    assert random_modules(network) == [3]
    assert "modules 3 draw random numbers" in inexact(network, stages)
    for module in network.local_modules:
        object.__setattr__(module.objective, "dropout", 0.0)
    assert inexact(network, stages) == ""


def test_layers_that_draw_are_found_by_what_they_are():
    drawing = [nn.Dropout(0.1), nn.RReLU(), StochasticDepth(0.1, "row"), PatchDropout(0.1)]
    assert all(pipeline._draws(layer) for layer in drawing)
    assert not any(
        pipeline._draws(layer) for layer in (nn.Dropout(0.0), nn.ReLU(), StochasticDepth(0.0, "row"))
    )


def test_only_weights_that_averages_read_are_sent():
    stages = [range(4), range(4, 10)]
    for overrides, sent in ([], 1), (["ema.source=none", "ema.bias=block"], 0), (["ema.momentum=1"], 0):
        network = build_network(compose([*TINY, "method=man", "K=10", *overrides]))
        assert len(pipeline.Followed(network, stages, 1, None)._outgoing) == sent


class Team:
    """Two processes of which the other votes for nothing; maxima are known when they are asked for."""

    replicas, size = 1, 2

    def begin_max(self, value):
        return lambda: value


def test_a_stop_is_heard_in_phases_with_fewer_batches_than_processes():
    votes = Votes(cast("Any", Team()))
    assert votes.max(15) == 0
    assert votes.close() == 15
    assert votes.close() == 0


def test_a_stage_holds_no_other_modules_weights():
    network = build_network(compose([*TINY, "method=man", "K=10"]))
    whole = count_parameters(network)
    network.restrict(range(4), cast("Any", SimpleNamespace()))
    followed = [p for layer in network.following() for p in layer.live.parameters()]
    present = [p for p in network.parameters() if not p.is_meta]
    assert 0 < sum(p.numel() for p in present) < whole / 2
    assert all(not p.is_meta for p in followed)
    weights = dict(network.named_parameters())
    assert not weights["backbone.layers.4.conv1.weight"].requires_grad  # followed from here, trained elsewhere
    assert weights["backbone.layers.5.conv1.weight"].is_meta
    names = set(network.held_state())
    assert any(name.startswith("backbone.layers.3.") for name in names)
    assert not any(name.startswith(("backbone.layers.4.", "backbone.layers.5.")) for name in names)


def test_memory_is_measured_for_each_process():
    shared = ["parallel=modules", "processes=2", "parallel.balance=operations"]
    records = [commands.run(compose([*TINY, "method=dgl", "measure=memory", *more])) for more in (shared, [])]
    together, alone = (record["figures"] for record in records if record is not None)
    peaks = together["stage_peaks_bytes"]
    assert len(peaks) == 2
    assert max(peaks) == together["peak_bytes"] < alone["peak_bytes"]


def test_measured_turns_leave_the_network_as_it_is():
    network = build_network(compose([*TINY, "method=infopro"]))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images, targets = torch.randn(4, 3, 8, 8), torch.arange(4)
    random_state = torch.get_rng_state()
    turns = measured(network, images, targets, contextlib.nullcontext)
    assert [turn.total > 0 for turn in turns] == [True] * 4
    assert_same(dict(network.state_dict()), before)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_table_of_modules_says_who_trains_which(capsys):
    commands.run(compose([*TINY, "processes=2", "parallel=modules", "show=modules"]))
    told = capsys.readouterr().out
    assert "process 1: modules" in told
    assert "times as fast as one process" in told


EVEN = [Module(Turn(1.0, 1.0), 1.0, 100) for _ in range(8)]


def test_modules_side_by_side_are_as_fast_as_the_slowest_device():
    cuts = range(1, 8)
    assert scaling.pipelined(EVEN, 1, cuts, 1e12, 10) == 16
    assert scaling.pipelined(EVEN, 4, cuts, 1e12, 10**4) == pytest.approx(4, rel=1e-3)
    filling = scaling.pipelined(EVEN, 4, cuts, 1e12, 1)
    assert filling == pytest.approx(3 * 3 + 4)  # each device but the last hands on before its last backward
    slow = scaling.pipelined(EVEN, 4, cuts, 10, 10**3)  # 10 seconds for each handover
    assert slow == pytest.approx(10, rel=0.05)
    onward = [replace(module, followed={i + 1: 40} if i < 7 else {}) for i, module in enumerate(EVEN)]
    assert scaling.pipelined(onward, 4, cuts, 1e12, 10**4) == pytest.approx(4, rel=1e-3)
    assert scaling.pipelined(onward, 4, cuts, 10, 10**3) >= slow  # and 4 seconds for weights


def test_followers_of_the_last_layer_keep_the_devices_in_step():
    cuts = range(1, 8)
    far = [replace(module, followed={7: 1} if i < 7 else {}) for i, module in enumerate(EVEN)]
    assert scaling.pipelined(far, 2, cuts, 1e12, 10**4) == pytest.approx(8, rel=1e-2)
    # The first device starts a step when the last has ended the one before the previous: every two steps take seven
    # forward passes and a module's step. Without the wait it would be 2 seconds.
    assert scaling.pipelined(far, 8, cuts, 1e12, 10**4) == pytest.approx(9 / 2, rel=1e-3)


def test_the_other_ways_of_several_devices():
    assert scaling.data_parallel(8.0, 100, 4, 1e12) == pytest.approx(2)
    assert scaling.data_parallel(8.0, 100, 4, 10) == pytest.approx(15)  # the ring is slower
    assert scaling.pipelined_backpropagation([1.0] * 8, [100] * 8, 4, 8, 1e12) == pytest.approx(2 * 11 / 8)
    assert scaling.pipelined_backpropagation([1.0] * 8, [100] * 8, 4, 8, 10) == pytest.approx(20 * 11 / 8)


def test_a_model_of_several_devices(monkeypatch):
    monkeypatch.setattr(tables_scaling, "CLAIMED", {"resnet110": (2,)})
    network = ["backbone=resnet20", "K=10", "batch_size=8"]
    tiny = [*TINY[:4], *network, "device=cpu", "threads=1", "measure=pipeline"]
    record = commands.run(compose(["method=auglocal", "aux.depth=2", *tiny]))
    assert record is not None
    rows = record["figures"]["rows"]
    assert [row["devices"] for row in rows] == [1, 2, 4, 8, 9]
    assert rows[0]["limit"] == 1
    assert rows[1]["modules"] < rows[0]["modules"]
    commands.run(compose(["method=dgl", *tiny]))
    print(commands.listing(compose(["show=pipeline"])))
    assert Path("results/ours/pipeline.png").exists()
    with Path("results/ours/pipeline.csv").open() as file:
        models = list(csv.DictReader(file))
    # Backpropagation is divided once, as finely as DGL's ten modules allow.
    assert [m["devices"] for m in models if m["label"] == "bp, GPipe"] == ["1", "2", "4", "8", "10"]
    with Path("results/ours/auglocal_parallel.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["claim_d_over_L"]) == pytest.approx(2 / 55, abs=1e-4)
    assert float(row["slowest_module"]) < float(row["16_devices"]) < float(row["2_devices"]) < 2


def test_what_is_passed_on_is_not_the_buffer_that_is_received_into(monkeypatch):
    monkeypatch.setattr(pipeline.dist, "new_group", lambda: None)
    network = build_network(compose([*TINY, "method=infopro"]))
    ends = handover.boundaries(network, torch.randn(2, 3, 8, 8), contextlib.nullcontext)
    team = cast("Any", SimpleNamespace(rank=1))
    stage = pipeline.Stage(network, [range(1), range(1, 2), range(2, 4)], team, ends)
    sent, message = [], stage._empty_message(4)
    stage._sink = cast("Any", SimpleNamespace(send=sent.extend))
    stage._source = cast("Any", SimpleNamespace(messages=lambda _: [message]))
    for features, targets in stage.received([4]):
        list(network.local_losses(features.normal_(), targets.zero_()))
    kept = {tensor.data_ptr() for tensor in message}
    assert len(sent) == len(message) == 3
    assert not kept & {tensor.data_ptr() for tensor in sent}
