"""The learning rate of every epoch, and the optimizers' steps."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from localsl.config import compose
from localsl.network import build_network
from localsl.runs import experiment
from localsl.train import optim
from localsl.train.optim import SGD, learning_rate
from tests.conftest import ROOT, environment


@pytest.mark.parametrize(
    ("lr", "epoch", "expected"),
    # As printed by the released code with 400 epochs.
    [
        (0.8, 1, 0.01),
        (0.8, 2, 0.088995),
        (0.8, 5, 0.325877),
        (0.8, 10, 0.719890),
        (0.8, 11, 0.798509),
        (0.8, 100, 0.682843),
        (0.8, 200, 0.4),
        (0.8, 300, 0.117157),
        (0.8, 399, 1.23e-5),
        (0.1, 1, 0.01),
        (0.1, 2, 0.018999),
        (0.1, 5, 0.045985),
        (0.1, 10, 0.090861),
        (0.1, 11, 0.099814),
    ],
)
def test_the_learning_rate_with_warmup_is_that_of_the_released_code(lr, epoch, expected):
    assert learning_rate(epoch, lr, compose(["schedule=paper"]).schedule) == pytest.approx(
        expected, rel=1e-3, abs=1e-7
    )


@pytest.mark.parametrize("schedule", ["paper", "short", "smoke"])
def test_the_last_epoch_has_learning_rate_zero(schedule):
    settings = compose([f"schedule={schedule}"]).schedule
    assert learning_rate(settings.epochs, 0.8, settings) == 0


def test_the_learning_rate_is_quartered_at_predsims_milestones():
    settings = compose(["schedule=predsim"]).schedule
    rates = {epoch: learning_rate(epoch, 1.0, settings) for epoch in (1, 200, 201, 300, 301, 351, 376, 400)}
    assert rates == {1: 1, 200: 1, 201: 0.25, 300: 0.25, 301: 1 / 16, 351: 1 / 64, 376: 1 / 256, 400: 1 / 256}


def test_warmup_never_starts_above_the_learning_rate():
    settings = compose(["schedule=short"]).schedule
    assert learning_rate(1, 5e-4, settings) == 5e-4


def test_without_warmup_the_learning_rate_is_a_cosine():
    settings = compose(["schedule.epochs=4", "schedule.warmup_epochs=0"]).schedule
    assert learning_rate(2, 1.0, settings) == pytest.approx(0.5)
    assert learning_rate(1, 1.0, settings) == pytest.approx(0.853553)


def test_a_warmup_in_steps_is_linear_and_ends_with_the_first_epoch(monkeypatch):
    assert [optim.warmup_factor(step, 4) for step in range(6)] == [0.001, 0.25075, 0.5005, 0.75025, 1, 1]
    rates = []
    real = SGD.step

    def step(self, *arguments):
        rates.append(self.lr)
        return real(self, *arguments)

    monkeypatch.setattr(SGD, "step", step)
    small = ["dataset.train_subset=60", "batch_size=20", "schedule.epochs=2", "schedule.warmup_epochs=0"]
    cfg = compose([*small, "method=bp", "dataset.test_subset=20", "schedule.warmup_steps=2", "device=cpu"])
    experiment.run(cfg)
    first, second = (learning_rate(epoch, cfg.optimizer.lr, cfg.schedule) for epoch in (1, 2))
    assert rates == [first * 0.001, first * 0.5005, first, second, second, second]


@pytest.mark.parametrize(
    ("name", "build_torchs"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=1e-4, nesterov=True)),
        ("adam", lambda p: torch.optim.Adam(p, 0.1, weight_decay=1e-4, fused=True)),
    ],
)
def test_steps_equal_those_of_torchs_optimizers(name, build_torchs):
    settings = compose([f"optimizer={name}", "optimizer.weight_decay=1e-4"]).optimizer
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    ours = optim.build(layers[0].parameters(), settings)
    torchs = build_torchs(layers[1].parameters())
    for step in range(4):
        ours.lr = torchs.param_groups[0]["lr"] = 0.1 / (step + 1)
        x = torch.randn(8, 5, generator=generator)
        for layer, optimizer in zip(layers, (ours, torchs), strict=True):
            optimizer.zero_grad()
            # The last linear layer has no gradient in the first step.
            (layer(x) if step else layer[1](layer[0](x))).square().mean().backward()
            optimizer.step()
    for a, b in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert set(ours.state) == set(layers[0].parameters())


def test_steps_of_adamw_equal_torchs():
    settings = compose(["optimizer=adamw", "optimizer.lr=0.01"]).optimizer
    weights = [nn.Parameter(torch.linspace(-1, 1, 6)) for _ in range(2)]
    ours, torchs = optim.build(weights[:1], settings), torch.optim.AdamW(weights[1:], 0.01, weight_decay=0.05)
    for step in range(3):
        for weight, optimizer in zip(weights, (ours, torchs), strict=True):
            weight.grad = (step + 1) * weight.detach().cos()
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-6, atol=1e-7)
    assert not torch.allclose(weights[0], torch.linspace(-1, 1, 6))


def test_weight_decay_applies_to_every_parameter():
    network = build_network(compose())
    optimizer = SGD(network.parameters(), compose(["optimizer.weight_decay=0.5"]).optimizer)
    assert len(optimizer.parameters) == 356
    before = [p.detach().clone() for p in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before, network.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old * (1 - 0.1 * 0.5 * 1.9))  # Nesterov's first step


def test_the_optimizer_leaves_out_frozen_parameters():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    assert SGD(layer.parameters(), compose().optimizer).parameters == [layer.weight]


def test_a_run_imports_neither_the_compiler_nor_triton():
    """The compiler would double the time to the first step, and Triton takes half a second."""
    overrides = ["schedule.epochs=1", "dataset.train_subset=20", "batch_size=20"]
    imported = "print({'torch._dynamo', 'triton'} & {*sys.modules})"
    code = f"import sys, run; sys.argv += {overrides}; run.main(); {imported}"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, env=environment(ROOT))
    assert done.stdout.splitlines()[-1:] == ["set()"], done.stderr
