"""Speeds of training steps: how they are measured and recorded, and how fast a step must be.

A required speed is a ratio of two implementations of the same work, timed in turns in one process.
"""

import json
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision import transforms

from localsl.config import compose
from localsl.data.batches import TrainBatches
from localsl.execution import devices
from localsl.measure import speed
from localsl.measure.bench import slug
from localsl.measure.records import recorded
from localsl.network import build_network
from localsl.train import optim
from localsl.train.step import Totals, autocast, counted_step, train_epoch, train_step
from tests.helpers.analysis import rows_of
from tests.helpers.command import typed

CPU = torch.device("cpu")
SMALL = ["backbone=resnet20", "K=4", "dataset.image_size=4", "batch_size=8", "measure=speed"]


@pytest.fixture
def quick(monkeypatch):
    """Time one turn of each network only."""
    monkeypatch.setattr(speed, "SECONDS", 0)
    monkeypatch.setattr(speed, "TURNS", 1)


def speed_records():
    return [json.loads(file.read_text()) for file in sorted(Path("outputs/measured").glob("speed-*.json"))]


def test_a_speed_is_measured_again_and_replaces_the_previous_one(quick, monkeypatch, capsys):
    line = ["method=dgl", *SMALL]
    assert typed(monkeypatch, *line) == 0
    (first,) = speed_records()
    assert typed(monkeypatch, *line) == 0
    (second,) = speed_records()
    assert first["figures"]["ms_median"] != second["figures"]["ms_median"]
    assert f"{second['figures']['ratio_to_bp']:.2f} times backpropagation's" in capsys.readouterr().out
    assert second["figures"]["images_per_s"] == pytest.approx(8e3 / second["figures"]["ms_median"])


def test_an_overhead_is_measured_once_per_device(quick, monkeypatch, capsys):
    line = ["method=dgl", *SMALL[:-1], "measure=overhead"]
    assert typed(monkeypatch, *line) == 0
    (file,) = Path("outputs/measured").glob("overhead-*.json")
    first = file.read_bytes()
    assert typed(monkeypatch, *line) == 0
    assert file.read_bytes() == first
    assert "times backpropagation's" in capsys.readouterr().out
    monkeypatch.setattr("localsl.runs.provenance.device_name", lambda _: "another")
    assert typed(monkeypatch, *line) == 0
    assert len(list(Path("outputs/measured").glob("overhead-*.json"))) == 2


def test_the_bench_is_printed_as_a_table_and_written_to_a_file(quick, monkeypatch, capsys):
    assert typed(monkeypatch, "-m", "method=dgl,bp", *SMALL, "results_dir=results") == 0
    assert typed(monkeypatch, "method=auglocal", "aux.depth=2", *SMALL) == 0
    capsys.readouterr()
    assert typed(monkeypatch, "show=bench", "results_dir=results") == 0
    head, *lines = capsys.readouterr().out.splitlines()[:4]
    assert head.split()[-2:] == ["times", "bp"]
    assert sorted(line.split()[0] for line in lines) == ["auglocal", "bp", "dgl"]
    (file,) = Path("results/bench").glob("*.csv")
    assert file.stem == slug(speed_records()[0]["device"])
    rows = rows_of(file)
    assert {row["method"]: row["depth"] for row in rows} == {"auglocal": "2", "bp": "", "dgl": ""}
    for row in rows:
        assert (row["threads"], row["batch_size"], row["K"]) == ("1", "8", "4")
        assert row["torch"] == torch.__version__.split("+")[0]
        assert row["scope"] == speed.SCOPE
        assert float(row["ms_q1"]) <= float(row["ms_median"]) <= float(row["ms_q3"])


def test_a_bench_without_measurements_says_how_to_measure(monkeypatch, capsys):
    assert typed(monkeypatch, "show=bench") == 0
    assert "measure=speed" in capsys.readouterr().out
    assert not Path("results").exists()


def test_settings_that_change_a_speed_have_separate_records():
    def place(*overrides):
        return recorded(compose(["measure=speed", *overrides]), Path())

    changes = ["memory=lean", "optimizer.per_module=true", "threads=1", "threads=7", "channels_last=false"]
    changes += ["precision=bf16", "batch_size=64", "deterministic=true", "tf32=false"]
    assert place("threads=1") == place()  # tests run with one thread
    assert len({place(change) for change in changes}) == len(changes)
    assert place("seed=3", "optimizer.lr=0.5") == place()
    memory = [recorded(compose(["measure=memory", *more]), Path()) for more in ([], ["threads=7"])]
    assert memory[0] == memory[1]


def test_a_devices_name_becomes_a_file_name():
    assert slug("Intel(R) Xeon(R) Processor @ 2.50GHz") == "intel-xeon-processor-2-50ghz"
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_the_time_of_a_step_includes_making_its_batch(monkeypatch):
    """Making the next batch and the end of the epoch are not timed."""
    now = 0.0
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now)

    class Batches:
        def epoch(self, seed, epoch):
            nonlocal now
            for _ in range(2):
                now += 1
                yield torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)

    def epoch(network, step, batches, totals):
        nonlocal now
        for _ in batches:
            now += 10
        now += 100

    monkeypatch.setattr(speed, "train_epoch", epoch)
    trained = speed.Trained(compose(), Batches(), CPU)  # pyright: ignore[reportArgumentType]
    assert trained.steps(3) == [11e3] * 3
    assert trained.steps(1) == [11e3]


def test_the_reference_of_a_speed_is_backpropagation_of_the_same_network():
    cfg = compose(["method=man", "backbone=resnet20", "K=4", "precision=bf16"])
    reference = speed.backpropagation(cfg)
    assert (reference.backbone, reference.optimizer, reference.precision) == (
        cfg.backbone,
        cfg.optimizer,
        "bf16",
    )
    found = build_network(reference).state_dict()
    expected = build_network(compose(["method=bp", "backbone=resnet20"])).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def ratio(slow, fast, turns, warm_up=2):
    """How many times longer `slow` takes than `fast`: the median over turns."""

    def seconds(work):
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    for _ in range(warm_up):
        slow(), fast()
    return statistics.median(seconds(slow) / seconds(fast) for _ in range(turns))


def stepping(cfg, layout, build_optimizer, step_of, precision="fp32"):
    """A function that trains one step on a batch of noise."""
    network = build_network(cfg).train()
    network.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    size = cfg.dataset.image_size
    images = torch.randn(cfg.batch_size, 3, size, size).contiguous(memory_format=layout)
    targets = torch.arange(cfg.batch_size) % 10
    optimizer, forward = build_optimizer(network.parameters()), autocast(precision, CPU)

    def step():
        for _ in step_of(network, optimizer, images, targets, forward):
            pass

    return step


def plain_step(network, optimizer, images, targets, forward):
    """A training step in plain PyTorch, with one of torch's optimizers."""
    optimizer.zero_grad()
    with forward():
        for loss in network.local_losses(images, targets):
            loss.total.backward()
            yield loss
    network.update_ema()
    optimizer.step()


def has_amx():
    info = Path("/proc/cpuinfo")
    return info.exists() and "amx_bf16" in info.read_text()


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize(
    ("precision", "at_least"),
    [
        ("fp32", 1.15),
        pytest.param(
            "bf16", 1.9, marks=pytest.mark.skipif(not has_amx(), reason="this CPU has no AMX for bf16")
        ),
    ],
)
def test_a_step_is_faster_than_in_plain_eager_mode(precision, at_least):
    cfg = compose(["method=auglocal", "aux.depth=3", "dataset=cifar10", "batch_size=256", "optimizer.lr=1e-3"])

    def plain_sgd(parameters):
        settings = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}
        return torch.optim.SGD(parameters, **settings, foreach=False, fused=False)

    plain = stepping(cfg, torch.contiguous_format, plain_sgd, plain_step)
    ours = stepping(cfg, torch.channels_last, lambda p: optim.build(p, cfg.optimizer), train_step, precision)
    assert ratio(plain, ours, turns=7, warm_up=1) >= at_least


@pytest.mark.slow
@pytest.mark.timing
def test_an_epoch_takes_at_most_15_percent_longer_than_a_hand_written_loop():
    cfg = compose(["method=dgl", "optimizer.lr=1e-3"])
    layout = torch.channels_last
    images = torch.randn(16, 3, 8, 8).contiguous(memory_format=layout)
    targets = torch.arange(16) % 10
    network, other = build_network(cfg), build_network(cfg).train()
    for each in (network, other):
        each.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    optimizer = optim.build(network.parameters(), cfg.optimizer)
    settings = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}
    plain = torch.optim.SGD(other.parameters(), **settings, fused=True)
    modules = [
        (
            nn.Sequential(*(other.backbone.layers[i] for i in module.layers)),
            module.objective.parts[0].terms[0].network,
        )
        for module in other.local_modules
    ]
    steps = 4

    def by_hand():
        for _ in range(steps):
            plain.zero_grad()
            x = images
            for layers, head in modules:
                x = layers(x)
                F.cross_entropy(head(x), targets).backward()
                x = x.detach()
            plain.step()

    def ours():
        totals = Totals(network)
        train_epoch(network, counted_step(network, optimizer, totals), [(images, targets)] * steps, totals)

    assert ratio(ours, by_hand, turns=40) <= 1.15
    # Both loops have trained the same number of steps, and with the same result.
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_augmentation_is_20_times_faster_than_torchvisions_per_image(layout):
    """On one core; torchvision's transforms are timed without the time to load the pictures."""
    cfg = compose(["dataset=cifar10", "dataset.train_subset=10240", "batch_size=256"])
    split = speed.noise(cfg)
    batches = TrainBatches(split, cfg.dataset, cfg.batch_size, CPU, layout)
    mean, std = ([value / 255 for value in values] for values in (cfg.dataset.mean, cfg.dataset.std))
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    few = 512
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in split.images[:few]]

    def ours():
        assert sum(len(images) for images, _ in batches.epoch(0, 1)) == len(split)

    def per_image():
        assert len(torch.stack([transform(picture) for picture in pictures])) == few

    assert ratio(per_image, ours, turns=9) * len(split) / few >= 20


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_false_disables_tf32_in_convolutions(tf32, monkeypatch):
    backends = SimpleNamespace(benchmark=None, deterministic=None, allow_tf32=None)
    monkeypatch.setattr(torch.backends, "cudnn", backends)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cfg = compose([] if tf32 else ["tf32=false"])
    devices.prepare(torch.device("cuda"), cfg.deterministic, cfg.tf32)
    assert backends.allow_tf32 is tf32
