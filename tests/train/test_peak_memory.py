"""Counting live bytes, and the peak of a run."""

from types import SimpleNamespace

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


class Allocator:
    """A GPU's, of which every step of a process takes as much as is told here, in GiB."""

    def __init__(self, monkeypatch):
        self.peak = 0
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: self.peak)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: setattr(self, "peak", 0))

    def train(self, memory, steps):
        for taken in steps:
            with memory.step():
                self.peak = max(self.peak, taken)

    def process(self, steps, epochs, replayed=False):
        """A new one, which trains on tensors that say that they are on its GPU."""
        self.peak = 0
        network, optimizer = OnGpu(), SGD(torch.nn.Linear(1, 1).parameters(), compose().optimizer)
        return PeakMemory(network, optimizer, steps, epochs, replayed=replayed)


class OnGpu(torch.nn.Module):
    def parameters(self, recurse=True):
        return iter([SimpleNamespace(device=torch.device("cuda", 0), nbytes=0, grad=None)])


TRIED, USUAL, LEAST = 9, 5, 3


def test_a_gpus_peak_is_without_the_trials_of_the_first_epoch(monkeypatch):
    gpu = Allocator(monkeypatch)
    memory = gpu.process(steps=2, epochs=3)
    gpu.train(memory, [TRIED, TRIED])
    assert memory.bytes == TRIED  # all that is known so far
    gpu.train(memory, [USUAL, LEAST, LEAST, LEAST])
    assert memory.bytes == USUAL


@pytest.mark.parametrize(
    ("taken", "counted"), [([TRIED, LEAST, LEAST, USUAL, LEAST], USUAL), ([TRIED] * 3, TRIED)]
)
def test_a_run_of_one_epoch_leaves_out_its_first_steps_where_others_follow(taken, counted, monkeypatch):
    gpu = Allocator(monkeypatch)
    memory = gpu.process(steps=len(taken), epochs=1)
    gpu.train(memory, taken)
    assert memory.bytes == counted


def test_what_is_replayed_was_allocated_when_it_was_recorded(monkeypatch):
    gpu = Allocator(monkeypatch)
    memory = gpu.process(steps=2, epochs=3, replayed=True)
    gpu.train(memory, [USUAL, USUAL, 0, 0, 0, 0])
    assert memory.bytes == USUAL


def test_a_process_that_goes_on_has_trials_of_its_own(monkeypatch):
    gpu = Allocator(monkeypatch)
    memory = gpu.process(steps=2, epochs=5)
    gpu.train(memory, [TRIED, TRIED, USUAL])
    assert memory.bytes == USUAL
    memory = gpu.process(steps=2, epochs=5)
    memory.resume(3, USUAL)
    gpu.train(memory, [TRIED, TRIED])
    assert memory.bytes == USUAL
    gpu.train(memory, [LEAST, LEAST])
    assert memory.bytes == USUAL
    memory = gpu.process(steps=2, epochs=5)
    memory.resume(9, USUAL)
    gpu.train(memory, [TRIED])
    assert memory.bytes == USUAL  # its only step tried


def test_a_peak_of_trials_alone_is_forgotten_when_a_run_goes_on(monkeypatch):
    gpu = Allocator(monkeypatch)
    memory = gpu.process(steps=2, epochs=5)
    memory.resume(2, TRIED)  # as after every first epoch
    gpu.train(memory, [TRIED, LEAST])
    assert memory.bytes == TRIED
    gpu.train(memory, [USUAL])
    assert memory.bytes == USUAL
