"""Peak memory: live bytes counted on the CPU, and the allocator's peak on a GPU."""

from types import SimpleNamespace

import pytest
import torch

from localsl.config import compose
from localsl.network import build_network
from localsl.train.optim import SGD
from localsl.train.peak_memory import LiveBytes, PeakMemory
from localsl.train.step import train_step


def test_a_storage_is_counted_once_and_until_its_last_reference():
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


def test_tensors_saved_for_backward_are_counted():
    weight = torch.ones(1000, requires_grad=True)
    with LiveBytes([weight]) as live:
        y = weight.exp().sin().sum()  # exp's result is saved by both exp and sin, and counts once
        before_backward = live.now
        y.backward()
        after_backward = live.now
    assert before_backward == 4000 + 4000 + 4
    assert after_backward == 4000 + 4000 + 4  # the saved tensor is freed, and the gradient has its size


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


def test_local_learning_needs_less_memory_and_its_activations_do_not_grow_with_depth():
    shallow_local, shallow_bp = peak("backbone=resnet20", "K=10"), peak("method=bp", "backbone=resnet20")
    deep_local, deep_bp = peak("backbone=resnet44", "K=22"), peak("method=bp", "backbone=resnet44")
    assert deep_local < deep_bp / 3
    weights = 16 * (2_000_000 - 800_000)  # parameters, gradients and momentum of the deeper network
    assert deep_local < shallow_local + weights
    assert deep_bp > 1.8 * shallow_bp


@pytest.mark.parametrize(("steps", "epochs", "traced"), [(1, 1, 0), (2, 1, 0), (3, 1, 1), (1, 9, 1), (2, 9, 2)])
def test_the_traced_step_has_a_full_batch_and_where_possible_momentum(steps, epochs, traced):
    network = build_network(compose())
    optimizer = SGD(network.parameters(), compose().optimizer)
    memory = PeakMemory(network, optimizer, steps, epochs)
    found = []
    for step in range(steps * epochs):
        with memory.step() as live:
            found += [step] if live else []
    assert found == [traced]


def test_a_run_of_one_step_is_measured():
    network = build_network(compose())
    optimizer = SGD(network.parameters(), compose().optimizer)
    memory = PeakMemory(network, optimizer, steps=1, epochs=1)
    with memory.step():
        list(train_step(network, optimizer, torch.randn(4, 3, 8, 8), torch.arange(4)))
    assert memory.bytes > sum(p.nbytes for p in network.parameters())
    assert "live tensors" in memory.scope


def test_the_peak_is_zero_before_the_first_step():
    network = build_network(compose())
    optimizer = SGD(network.parameters(), compose().optimizer)
    assert PeakMemory(network, optimizer, steps=5, epochs=1).bytes == 0


class Allocator:
    """A GPU's allocator, from which every step takes a given amount of memory."""

    def __init__(self, monkeypatch):
        self.peak = 0
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: self.peak)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: setattr(self, "peak", 0))

    def train(self, memory, amounts):
        """Train one step for each of the amounts of memory."""
        for amount in amounts:
            with memory.step():
                self.peak = max(self.peak, amount)

    def process(self, steps, epochs, replayed=False):
        """The measurement of a new process, whose parameters claim to be on the GPU."""
        self.peak = 0
        network, optimizer = OnGpu(), SGD(torch.nn.Linear(1, 1).parameters(), compose().optimizer)
        return PeakMemory(network, optimizer, steps, epochs, replayed=replayed)


class OnGpu(torch.nn.Module):
    def parameters(self, recurse=True):
        return iter([SimpleNamespace(device=torch.device("cuda", 0), nbytes=0, grad=None)])


# Memory of a step in which cuDNN tries its algorithms, of a usual one, and of a small one.
TRIAL, USUAL, SMALL = 9, 5, 3


def test_a_gpus_peak_leaves_out_the_trials_of_the_first_epoch(monkeypatch):
    gpu = Allocator(monkeypatch)
    memory = gpu.process(steps=2, epochs=3)
    gpu.train(memory, [TRIAL, TRIAL])
    assert memory.bytes == TRIAL  # there are no other steps yet
    gpu.train(memory, [USUAL, SMALL, SMALL, SMALL])
    assert memory.bytes == USUAL


@pytest.mark.parametrize(
    ("amounts", "peak_bytes"), [([TRIAL, SMALL, SMALL, USUAL, SMALL], USUAL), ([TRIAL] * 3, TRIAL)]
)
def test_a_run_of_one_epoch_leaves_out_its_first_steps_if_others_follow(amounts, peak_bytes, monkeypatch):
    gpu = Allocator(monkeypatch)
    memory = gpu.process(steps=len(amounts), epochs=1)
    gpu.train(memory, amounts)
    assert memory.bytes == peak_bytes


def test_the_memory_of_replayed_steps_is_that_of_their_recording(monkeypatch):
    gpu = Allocator(monkeypatch)
    memory = gpu.process(steps=2, epochs=3, replayed=True)
    gpu.train(memory, [USUAL, USUAL, 0, 0, 0, 0])
    assert memory.bytes == USUAL


def test_a_resumed_process_leaves_out_its_own_trials(monkeypatch):
    gpu = Allocator(monkeypatch)
    memory = gpu.process(steps=2, epochs=5)
    gpu.train(memory, [TRIAL, TRIAL, USUAL])
    assert memory.bytes == USUAL
    memory = gpu.process(steps=2, epochs=5)
    memory.resume(3, USUAL)
    gpu.train(memory, [TRIAL, TRIAL])
    assert memory.bytes == USUAL
    gpu.train(memory, [SMALL, SMALL])
    assert memory.bytes == USUAL
    memory = gpu.process(steps=2, epochs=5)
    memory.resume(9, USUAL)
    gpu.train(memory, [TRIAL])
    assert memory.bytes == USUAL  # the only step of this process was a trial


def test_a_resumed_run_forgets_a_peak_of_trials_alone(monkeypatch):
    gpu = Allocator(monkeypatch)
    memory = gpu.process(steps=2, epochs=5)
    memory.resume(2, TRIAL)  # after the first epoch, only trials have been measured
    gpu.train(memory, [TRIAL, SMALL])
    assert memory.bytes == TRIAL
    gpu.train(memory, [USUAL])
    assert memory.bytes == USUAL
