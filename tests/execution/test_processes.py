"""Two processes train as one that averages the gradients of both halves of a batch; if one dies, both end."""

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch.multiprocessing import spawn
from torch.nn.modules.batchnorm import _BatchNorm

from localsl.cli import commands
from localsl.cli.command_line import check_command_line
from localsl.config import ConfigError, compose
from localsl.data.batches import TestBatches, TrainBatches
from localsl.data.splits import Split
from localsl.execution import devices
from localsl.execution.processes import ALONE, WHOLE, Part, Team
from localsl.network import build_network
from localsl.runs import experiment
from localsl.runs.checkpoint import Checkpoints
from localsl.train import optim
from localsl.train.step import Totals, evaluate, train_step, training_forward
from tests.conftest import ROOT
from tests.helpers.runs import METHODS, TINY, assert_same, children, left_by, tiny_of

pytestmark = pytest.mark.xdist_group("processes")  # whose fixtures start processes of their own

STEPS, CPU = 10, torch.device("cpu")
CASES = {method: tiny_of(method) for method in METHODS}
CASES |= {f"{method}, layer-wise": [*tiny_of(method), "K=10"] for method in ("man", "mlaan", "mlaan_released")}
CASES |= {f"{m}, per module": [*tiny_of(m), "optimizer.per_module=true"] for m in ("auglocal", "man", "mlaan")}
CASES |= {"adam": [*tiny_of("man"), "optimizer=adam"], "lean": [*tiny_of("auglocal"), "memory=lean"]}
FAST = ("bp", "infopro", "man, per module", "mlaan")


def double(overrides):
    cfg = compose(overrides)
    network = build_network(cfg).double().train()
    return cfg, network, optim.build(network.parameters(), cfg.optimizer)


def batch(step):
    """Eight images, of which each process takes four."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64), torch.arange(8) % 10


def halves(step):
    return list(zip(*(part.split(4) for part in batch(step)), strict=True))


def figures(network, cfg, part, team=ALONE):
    """Of an evaluation of ten images in batches of three, and of two training batches."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (10, 3, 8, 8), generator=random, dtype=torch.uint8)
    split = Split(images, torch.arange(10))
    batches = ((x.double(), y) for x, y in TestBatches(split, cfg.dataset, 3, CPU, part=part))
    test = evaluate(network, batches, top5=True, team=team)
    totals = Totals(network)
    network.eval()  # so that BatchNorm does not tell a part from the whole
    for x, y in TrainBatches(split, cfg.dataset, 4, CPU, part=part).epoch(0, 1):
        totals.add(network.local_losses(x.double(), y), len(y))
        totals.batch(len(y))
    means = totals.means(team)
    return [test.loss, test.accuracy, test.top5_accuracy, *(x for m in means for x in (m.loss, m.accuracy))]


def seeded(step, rank):
    torch.manual_seed(2 * step + rank)  # of dropout


def process(rank, folder, cases):
    """What each of two processes does: these cases, and a step that only the second finds broken."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    team, left = Team(rank, 2), {}
    for case in cases:
        cfg, network, optimizer = double(CASES[case])
        forward = training_forward(cfg, CPU)
        for step in range(STEPS):
            seeded(step, rank)
            for _ in train_step(network, optimizer, *halves(step)[rank], forward, team):
                pass
        left[case] = network.state_dict()
    cfg, network, _ = double(CASES["man"])
    left["figures"] = figures(network, cfg, Part(rank, 2), team)
    for case in ("man", "man, per module"):
        _, network, optimizer = double(CASES[case])
        before = copy.deepcopy(list(network.parameters()))
        images, targets = halves(0)[rank]
        for _ in train_step(network, optimizer, images * (float("nan") if rank else 1), targets, team=team):
            pass
        left[f"{case}, poisoned"] = all(map(torch.equal, before, network.parameters()))
    torch.save(left, f"{folder}/rank={rank}.pt")
    dist.destroy_process_group()


def trained(folder, cases):
    """What both processes end with."""
    spawn(process, (str(folder), cases), nprocs=2)
    return [torch.load(folder / f"rank={rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("processes"), FAST)


@pytest.fixture(scope="module")
def more_left(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("processes"), [case for case in CASES if case not in FAST])


def one_process(overrides):
    """The reference, written out: a copy of the network for each half, the gradients averaged."""
    pairs = [double(overrides)[1:] for _ in range(2)]
    networks, optimizers = zip(*pairs, strict=True)
    for step in range(STEPS):
        for rank, network in enumerate(networks):
            seeded(step, rank)
            optimizers[rank].zero_grad()
            for loss in network.local_losses(*halves(step)[rank]):
                loss.total.backward()
        for one, other in zip(*(network.parameters() for network in networks), strict=True):
            if one.grad is not None:
                one.grad = other.grad = (one.grad + other.grad) / 2
        for network, optimizer in pairs:
            network.update_ema()
            optimizer.step()
        for one, other in zip(*(network.modules() for network in networks), strict=True):
            if isinstance(one, _BatchNorm):
                for name in ("running_mean", "running_var"):
                    mean = (getattr(one, name) + getattr(other, name)) / 2
                    getattr(one, name).copy_(mean)
                    getattr(other, name).copy_(mean)
    return networks[0].state_dict()


def are_one(case, left):
    assert_same(left[0][case], left[1][case])
    wanted = one_process(CASES[case])
    assert list(left[0][case]) == list(wanted)
    furthest = max(float((left[0][case][k] - wanted[k]).abs().max()) for k in wanted)
    assert furthest < 1e-8
    _, start, _ = double(CASES[case])
    moved = [float((wanted[name] - p).detach().abs().max()) for name, p in start.named_parameters()]
    assert min(moved) == 0 or min(moved) > 1e-6  # an unused one apart
    assert max(moved) > 1e-3


@pytest.mark.parametrize("case", FAST)
def test_two_processes_are_one(case, left):
    are_one(case, left)


def test_figures_are_of_all_processes_images(left):
    cfg, network, _ = double(CASES["man"])
    wanted = figures(network, cfg, WHOLE)
    assert len(wanted) > 3
    for one in left:
        assert one["figures"] == pytest.approx(wanted, rel=1e-6)  # batches are summed in float32


def test_a_stop_that_is_asked_for_while_waiting_for_the_others_is_heard(monkeypatch):
    def interrupted(_, value):
        os.kill(os.getpid(), signal.SIGTERM)
        return value

    monkeypatch.setattr(Team, "max", interrupted)
    with pytest.raises(SystemExit) as end:
        experiment.run(compose([*TINY, "schedule.epochs=1"]))
    assert end.value.code == 143


def test_batchnorm_is_synchronised_in_place():
    cfg, network, _ = double(CASES["man"])
    before = list(network.state_dict())
    devices.place(network, dataclasses.replace(cfg, sync_batchnorm=True), CPU)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    assert norms
    assert all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)
    assert list(network.state_dict()) == before


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in FAST])
def test_two_processes_are_one_for_every_rule(case, more_left):
    are_one(case, more_left)


@pytest.mark.parametrize("case", ["man", "man, per module"])
def test_a_loss_that_is_not_finite_in_one_process_changes_no_weight_in_any(case, left):
    assert [one[f"{case}, poisoned"] for one in left] == [True, True]


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["batch_size=127"], "batch_size"),
        (["batch_size=2"], "batch_size"),
        (["processes=3"], "processes"),
        (["cuda_graph=true"], "cuda_graph"),
        (["sync_batchnorm=true"], "sync_batchnorm"),
        (["show=runs"], "show"),
        (["measure=speed"], "measure"),
        (["analysis=cka"], "analysis"),
    ],
)
def test_what_several_processes_cannot_do(overrides, key, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert compose(["batch_size=128"]).processes == 2
    with pytest.raises(ConfigError) as error:
        compose(overrides)
    assert key in [problem.key for problem in error.value.problems]


def test_one_of_several_processes_measures_what_each_needs(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    cfg = compose(["measure=memory", "backbone=resnet20", "K=4", "batch_size=16"])
    monkeypatch.setenv("RANK", "1")
    assert commands.run(cfg) is None
    assert not Path("outputs").exists()
    monkeypatch.setenv("RANK", "0")
    of_two = commands.run(cfg)
    monkeypatch.delenv("WORLD_SIZE")
    alone = commands.run(compose(["measure=memory", "backbone=resnet20", "K=4", "batch_size=8"]))
    assert of_two is not None
    assert alone is not None
    assert of_two["figures"] == alone["figures"]


def test_a_table_of_runs_and_times_takes_several_processes():
    line = ["-m", "sweep=auglocal/table7", "processes=2", "hydra/launcher=submitit_local"]
    checked = check_command_line([*line, "hydra.launcher.tasks_per_node=2"])
    assert {cfg.measure for cfg in checked.configs} == {None, "memory", "flops", "overhead"}


def test_a_sweep_under_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun starts a single run"):
        check_command_line(["-m", "seed=0,1"])


def test_processes_that_were_not_started(capsys):
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "processes=2", "device=cpu"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "torchrun --nproc_per_node=2" in done.stderr


RUN = [*TINY, "schedule.epochs=8", "method=mlaan", "method.cascade=2", "threads=1"]


def torchrun(*overrides, run=RUN):
    """A run of two processes, started as users do."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "run.py"), *run, *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def of_two(*overrides):
    """The configuration of such a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        return compose([*RUN, *overrides])


@pytest.mark.slow
def test_a_run_of_two_processes_that_one_leaves_goes_on(tmp_path):
    straight, broken = of_two("output_dir=straight"), of_two("output_dir=broken")
    run = torchrun("output_dir=straight")
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert out.count("epoch 8/8") == 1  # of one process, not of both
    state, metrics, record = left_by(straight)
    assert record["processes"] == 2

    run = torchrun("output_dir=broken")
    assert run.stdout is not None
    while not run.stdout.readline().startswith("epoch 2/8"):
        assert run.poll() is None
    killed = time.monotonic()
    os.kill(children(run.pid)[1], signal.SIGKILL)
    _, err = run.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert run.returncode != 0
    assert "another process of this run has ended" in err
    assert "repeat the command to resume" in err

    run = torchrun("output_dir=broken")
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert "resuming after" in out
    assert_same(left_by(broken), (state, metrics, record))

    run = torchrun("output_dir=broken")  # a finished run is told by both, and trained by none
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert out.count("This run is done") == 1


@pytest.mark.slow
def test_a_mistake_that_only_the_first_finds_ends_both_once(tmp_path):
    run = torchrun("dataset.train_subset=1438", "output_dir=mistake")  # found when the images are read
    _, err = run.communicate(timeout=60)
    assert run.returncode != 0
    assert err.count("the 1438 images have no balanced subset of this size") == 1


@pytest.mark.slow
def test_two_processes_diverge_together():
    run = torchrun("optimizer.lr=1e30", "schedule.warmup_lr=1e30", "output_dir=broken")
    _, err = run.communicate(timeout=120)
    assert run.returncode != 0
    assert err.count("diverged: the loss of module") == 1
    (record,) = (json.loads(file.read_text()) for file in Path("broken").rglob("record.json"))
    assert (record["status"], record["processes"]) == ("diverged", 2)


@pytest.mark.slow
def test_a_launcher_starts_several_processes_a_job():
    command = [sys.executable, str(ROOT / "run.py"), "-m", "seed=0,1", "processes=2", *TINY, "threads=1"]
    command += ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = [json.loads(file.read_text()) for file in Path("outputs").rglob("record.json")]
    assert [(record["status"], record["processes"]) for record in records] == [("done", 2)] * 2


@pytest.mark.slow
def test_two_processes_decode_their_parts_of_pictures(pictures):
    small = ["backbone=resnet20", "K=4", "schedule=smoke", "batch_size=6", "device=cpu", "threads=1"]
    of_pictures = [
        "dataset=imagefolder",
        f"dataset.root={pictures}",
        "dataset.image_size=16",
        "dataset.workers=1",
    ]
    run = torchrun(run=[*small, *of_pictures])
    _, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    (record,) = (json.loads(file.read_text()) for file in Path("outputs").rglob("record.json"))
    assert (record["status"], record["processes"]) == ("done", 2)
    assert record["images"] == {"train": 6, "test": 4}
    assert record["last"]["test_accuracy"] in (0, 25, 50, 75, 100)  # of all four


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_saves_and_ends_both():
    cfg = of_two("output_dir=stopped", "schedule.epochs=200")
    run = torchrun("output_dir=stopped", "schedule.epochs=200")
    assert run.stdout is not None
    while " 1/200" not in run.stdout.readline():
        assert run.poll() is None
    os.kill(children(run.pid)[1], signal.SIGTERM)
    run.communicate(timeout=60)
    (record,) = (json.loads(file.read_text()) for file in Path("stopped").rglob("record.json"))
    assert record["status"] == "interrupted"
    state = Checkpoints(cfg).newest()
    assert state is not None
    assert len(state["processes"]) == 2
