"""Counting live bytes, and the peak of a run."""

import pytest
import torch

from localsl.config import compose
from localsl.network import build_network
from localsl.train.optim import SGD
from localsl.train.peak_memory import LiveBytes, PeakMemory
from localsl.train.step import train_step


def test_a_storage_counts_once_and_until_its_last_reference():
    kept = torch.zeros(10)
    with LiveBytes([kept]) as live:
        assert live.now == 40
        a = torch.ones(100)
        view = a.view(10, 10)[1:]
        assert live.now == 440
        del a
        assert live.now == 440
        del view
        assert live.now == 40
    assert live.peak == 440


def test_what_is_saved_for_backward_counts():
    weight = torch.ones(1000, requires_grad=True)
    with LiveBytes([weight]) as live:
        y = weight.exp().sin().sum()  # exp's result is saved twice over, as its own and as sin's input
        held = live.now
        y.backward()
        after = live.now
    assert held == 4000 + 4000 + 4
    assert after == 4000 + 4000 + 4  # the saved tensor is gone, the gradient is there


def peak(*overrides):
    cfg = compose(["dataset=cifar10", *overrides])
    network = build_network(cfg)
    optimizer = SGD(network.parameters(), cfg.optimizer)
    memory = PeakMemory(network, optimizer, steps=3, epochs=1)
    for _ in range(2):
        images, targets = torch.randn(64, 3, 32, 32), torch.arange(64) % 10
        with memory.step():
            list(train_step(network, optimizer, images, targets))
    return memory.bytes


def test_local_learning_needs_less_and_its_peak_does_not_grow_with_depth():
    shallow = peak("backbone=resnet20", "K=10"), peak("method=bp", "backbone=resnet20")
    deep = peak("backbone=resnet44", "K=22"), peak("method=bp", "backbone=resnet44")
    assert deep[0] < deep[1] / 3
    weights = 16 * (2_000_000 - 800_000)  # parameters, gradients, momentum: all that depth adds
    assert deep[0] < shallow[0] + weights
    assert deep[1] > 1.8 * shallow[1]


@pytest.mark.parametrize(("steps", "epochs", "traced"), [(1, 1, 0), (2, 1, 0), (3, 1, 1), (1, 9, 1), (2, 9, 2)])
def test_the_traced_step_has_a_full_batch_and_where_possible_momentum(steps, epochs, traced):
    network = build_network(compose())
    optimizer = SGD(network.parameters(), compose().optimizer)
    memory = PeakMemory(network, optimizer, steps, epochs)
    seen = []
    for step in range(steps * epochs):
        with memory.step() as live:
            seen += [step] if live else []
    assert seen == [traced]


def test_a_run_of_one_step_is_measured_too():
    network = build_network(compose())
    optimizer = SGD(network.parameters(), compose().optimizer)
    memory = PeakMemory(network, optimizer, steps=1, epochs=1)
    with memory.step():
        list(train_step(network, optimizer, torch.randn(4, 3, 8, 8), torch.arange(4)))
    assert memory.bytes > sum(p.nbytes for p in network.parameters())
    assert "live tensors" in memory.scope


def test_nothing_measured_is_zero():
    network = build_network(compose())
    optimizer = SGD(network.parameters(), compose().optimizer)
    assert PeakMemory(network, optimizer, steps=5, epochs=1).bytes == 0
