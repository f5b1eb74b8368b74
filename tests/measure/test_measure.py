"""Memory and operations of a training step, determined without training."""

import json
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from localsl.config import compose
from localsl.execution import devices
from localsl.measure import kinds
from localsl.measure.flops import flops, papers_count, training_flops
from localsl.measure.footprint import Allocated, footprint
from localsl.measure.records import allocated_bytes, measured, recorded
from localsl.network import build_network, count_parameters
from localsl.published import numbers as published
from localsl.runs import provenance
from localsl.tables.records import keep
from localsl.train import optim
from localsl.train.step import train_step
from tests.helpers.analysis import rows_of
from tests.helpers.command import typed

CIFAR = ["dataset=cifar10", "batch_size=1024"]
RESNET110 = ["dataset=cifar10", "backbone=resnet110", "K=55"]

# Peak of live tensors in a step of the published implementations, in GiB: ResNet-32 K=16, ResNet-110 K=55.
PUBLISHED = {
    "bp": (2.41, 8.10),
    "dgl": (0.46, 0.49),
    "predsim": (0.58, 0.60),
    "infopro": (0.69, 0.72),
    "auglocal aux.depth=2": (0.77, 0.80),
    "auglocal aux.depth=3": (0.61, 0.65),
    "auglocal aux.depth=4": (0.73, 0.78),
    "auglocal aux.depth=5": (0.92, 0.99),
    "auglocal aux.depth=6": (1.05, 1.12),
}
ROUNDING = 0.005


def composed(rule, *more):
    name, *values = rule.split()
    return compose([f"method={name}", *values, *more])


@pytest.mark.parametrize("rule", ["bp", "dgl", "infopro", "auglocal aux.depth=3"])
def test_a_step_on_resnet32_needs_no_more_memory_than_the_published_implementations(rule):
    assert footprint(composed(rule, *CIFAR)).peak / 2**30 < PUBLISHED[rule][0] + ROUNDING


@pytest.mark.slow
@pytest.mark.parametrize("rule", PUBLISHED)
def test_a_step_on_both_backbones_needs_no_more_memory_than_the_published_implementations(rule):
    for backbone, published_peak in zip((["K=16"], RESNET110), PUBLISHED[rule], strict=True):
        assert footprint(composed(rule, *CIFAR, *backbone)).peak / 2**30 < published_peak + ROUNDING


class EveryStorage(TorchDispatchMode):
    """Count the bytes of all live storages after each operation on real tensors."""

    def __init__(self, tensors):
        super().__init__()
        self.alive, self.peak = {}, 0
        self.count(tensors)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.count(leaf for leaf in tree_iter(out) if isinstance(leaf, torch.Tensor))
        return out

    def count(self, tensors):
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self.alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))


@pytest.mark.parametrize("rule", ["bp", "dgl", "predsim", "infopro", "auglocal aux.depth=3", "man", "mlaan"])
def test_the_peak_is_that_of_a_step_on_real_tensors(rule):
    cfg = composed(rule, "K=8", "batch_size=64", "dataset.image_size=16", "backbone=resnet20")
    network = build_network(cfg)
    optimizer = optim.build(network.parameters(), cfg.optimizer)
    images, targets = torch.randn(64, 3, 16, 16), torch.arange(64) % 10
    for loss in train_step(network, optimizer, images, targets):
        del loss
    tensors = [*network.parameters(), *network.buffers(), images, targets]
    tensors += [p.grad for p in network.parameters() if p.grad is not None]
    tensors += [tensor for averages in optimizer.state.values() for tensor in averages.values()]
    counter = EveryStorage(tensors)
    del tensors
    with counter:
        for loss in train_step(network, optimizer, images, targets):
            del loss
    assert footprint(cfg).peak == pytest.approx(counter.peak, rel=0.02)


def test_the_peak_is_the_sum_of_its_parts():
    cfg = composed("dgl", *CIFAR)
    found = footprint(cfg)
    parameters = 4 * count_parameters(build_network(cfg))
    assert parameters <= found.parameters < 1.02 * parameters  # BatchNorm's buffers are counted with them
    assert found.optimizer == parameters
    assert found.gradients < parameters
    assert found.peak == sum((found.parameters, found.gradients, found.optimizer, found.saved, found.transient))
    assert found.where.startswith("module ")
    assert found.saved > 2**28


def test_bf16_needs_less_memory():
    small = [*CIFAR, "backbone=resnet20", "K=4"]
    bf16, fp32 = (footprint(composed("dgl", *small, *more)).peak for more in (["precision=bf16"], []))
    assert bf16 < 0.75 * fp32


def published_flops():
    """The printed numbers of multiply-adds, each with its table."""
    tables = ("auglocal/table7", "auglocal/table11")
    numbers = [(table, number) for table in tables for number in published.read(table)]
    return [(table, number) for table, number in numbers if number.metric == "flops_g"]


def counted(table, number):
    """The multiply-adds, in billions, of the configuration that a printed number is for."""
    keys = dict(zip(published.KEYS, number.keys, strict=True))
    overrides = [f"method={keys['method']}"]
    overrides += [f"aux.depth={keys['depth']}"] if keys["depth"] else []
    overrides += [f"aux.pyramid={keys['variant'].removeprefix('tau=')}"] if table.endswith("11") else []
    return papers_count(build_network(compose([*overrides, *RESNET110])), 32) / 1e9


# The paper prints 0.25 for these and once 0.90, where its way of counting gives 0.26 and 0.89.
PRINTED_OTHERWISE = {("bp", ""): 0.2553, ("bp_checkpoint", ""): 0.2553, ("predsim", ""): 0.2561}


@pytest.mark.slow
def test_operations_counted_as_in_the_paper_are_the_printed_ones():
    checked = 0
    for table, number in published_flops():
        found = counted(table, number)
        keys = dict(zip(published.KEYS, number.keys, strict=True))
        if (keys["method"], keys["depth"]) in PRINTED_OTHERWISE:
            assert found == pytest.approx(PRINTED_OTHERWISE[keys["method"], ""], abs=5e-5)
        elif table.endswith("11") and number.value == "0.90":
            assert found == pytest.approx(0.8945, abs=5e-5)
        else:
            assert round(found, 2) == float(number.value), (table, number)
        checked += 1
    assert checked == 35


@pytest.mark.parametrize(("rule", "expected"), [("bp", 0.2553), ("dgl", 0.2618), ("infopro", 0.3404)])
def test_operations_of_handcrafted_rules_counted_as_in_the_paper(rule, expected):
    assert papers_count(build_network(composed(rule, *RESNET110)), 32) / 1e9 == pytest.approx(
        expected, abs=5e-5
    )


def test_operations_of_a_step_are_those_of_the_main_and_auxiliary_networks():
    small = ["backbone=resnet20", "K=4"]
    bp, dgl = flops(composed("bp", *small)), flops(composed("dgl", *small))
    assert bp.forward == dgl.forward
    assert bp.step == bp.step_main
    assert bp.step_auxiliary == 0
    assert dgl.step_auxiliary > 0
    assert dgl.step_main < bp.step_main  # no gradient passes between modules
    assert 2.9 * bp.forward < bp.step < 3 * bp.forward


@pytest.mark.parametrize(
    "rule",
    [
        "bp",
        "bp_checkpoint",
        "dgl",
        "predsim",
        "infopro",
        "auglocal aux.depth=2",
        "man",
        "man_released",
        "mlaan",
    ],
)
def test_predicted_operations_are_those_of_a_step(rule):
    """The prediction leaves out the few operations of similarity matrices, which PredSim's losses need."""
    name, *more = rule.split()
    cut = [] if name.startswith("bp") else ["K=4"]
    cfg = composed(name, *more, "backbone=resnet20", *cut)
    assert training_flops(cfg) == pytest.approx(flops(cfg).step, rel=1e-3 if name == "predsim" else 1e-9)


def test_threads_set_by_one_job_of_a_process_do_not_stay_for_the_next():
    devices.use_threads(compose(["threads=3"]))
    assert torch.get_num_threads() == devices.threads(compose(["threads=3"])) == 3
    file = recorded(compose(["measure=speed"]), Path())
    devices.use_threads(compose([]))
    assert torch.get_num_threads() == 1  # tests/conftest.py sets this
    assert file == recorded(compose(["measure=speed"]), Path())


def test_memory_measured_on_a_gpu_takes_precedence_over_a_count_without_one(monkeypatch, capsys):
    """A measurement on a machine without a GPU neither hides nor replaces it among the results."""
    line = ["method=dgl", "backbone=resnet20", "K=4", "measure=memory"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("localsl.measure.kinds.allocated", lambda _: Allocated(7 * 2**30, 6 * 2**30, 2**25))
    monkeypatch.setattr(provenance, "environment", lambda device: {"device": device.type})
    cfg = compose([*line, "output_dir=a"])
    assert typed(monkeypatch, *line, "output_dir=a") == 0
    keep([cfg])

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("localsl.measure.runner.MEASURES", {})
    assert typed(monkeypatch, *line, "output_dir=b") == 0
    line_of_the_gpu = (
        "peak of the CUDA allocator: 7168.0 MiB, tensors: 6144.0 MiB; cuBLAS's workspace of 32.0 MiB"
    )
    assert line_of_the_gpu in capsys.readouterr().out
    without = json.loads(recorded(cfg, Path("a")).read_text())
    without["figures"]["cuda_allocator_peak_bytes"] = None
    recorded(cfg, Path("a")).write_text(json.dumps(without | {"device": "cpu"}))
    keep([cfg])
    found = measured(cfg)
    assert (found["device"], found["modules"], allocated_bytes(found)) == ("cuda", 4, 7 * 2**30)
    assert json.loads(recorded(cfg, Path("results")).read_text()) == found

    # On a machine with a GPU, a measurement without the GPU's figure is repeated.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("localsl.measure.runner.MEASURES", {"memory": kinds.memory})
    recorded(cfg, Path("results")).unlink()
    assert typed(monkeypatch, *line, "output_dir=a") == 0
    assert allocated_bytes(measured(cfg)) == 7 * 2**30


@pytest.mark.parametrize("kind", ["memory", "flops"])
def test_a_measurement_is_recorded_once(kind, monkeypatch, capsys):
    line = ["method=dgl", "backbone=resnet20", "K=4", f"measure={kind}"]
    assert typed(monkeypatch, *line) == 0
    first = capsys.readouterr().out
    if kind == "memory":
        (record,) = (json.loads(f.read_text()) for f in Path("outputs/measured").glob("memory-*.json"))
        peak = record["figures"]["peak_bytes"]
        words = f"peak {peak / 2**20:.1f} MiB ({peak / 1e9:.2f} GB in the papers' units of 10^9 bytes)"
        assert first.splitlines()[-1] == words
    monkeypatch.setattr("localsl.measure.runner.MEASURES", {})
    assert typed(monkeypatch, *line, "seed=7", "optimizer.lr=0.5") == 0
    assert capsys.readouterr().out == first
    (row,) = rows_of(f"outputs/measured/{kind}.csv")
    assert (row["method"], row["K"], row["batch_size"]) == ("dgl", "4", "128")
    assert not list(Path("outputs").rglob("record.json"))
