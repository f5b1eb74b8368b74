"""What a recorded step promises that can be seen without a GPU."""

import pytest
import torch

from localsl.config import compose
from localsl.execution.graphs import WARM_UP, Graphs
from localsl.network import build_network
from localsl.runs.identity import run_id
from localsl.train import optim
from localsl.train.step import Totals, counted_step, train_epoch


class Noted:
    """A recorder that takes the step again in place of replaying it, and notes what it was asked for."""

    def __init__(self):
        self.eager, self.recorded, self.replayed = [], [], []

    def eagerly(self, step, images, targets):
        self.eager.append(len(targets))
        step(images, targets)

    def record(self, step, images, targets):
        self.recorded.append(len(targets))

        def replay(images, targets):
            self.replayed.append(len(targets))
            step(images, targets)

        return replay


def trained(graphs, epochs=3, sizes=(4, 4, 4, 4, 3)):
    cfg = compose(["method=dgl", "K=2", "backbone=resnet20", "device=cpu"])
    network = build_network(cfg)
    optimizer, totals = optim.build(network.parameters(), cfg.optimizer), Totals(network)
    step = counted_step(network, optimizer, totals, graphs=graphs)
    noise = torch.Generator().manual_seed(0)
    means = []
    for epoch in range(epochs):
        optimizer.lr = 0.1 / (1 + epoch)
        totals.clear()
        batches = [(torch.randn(n, 3, 8, 8, generator=noise), torch.arange(n)) for n in sizes]
        train_epoch(network, step, batches, totals)
        means.append([(mean.loss, mean.accuracy) for mean in totals.means()])
    return means, [p.detach().clone() for p in network.parameters()]


def test_one_recording_a_batch_size_for_the_whole_run():
    noted = Noted()
    trained(Graphs(noted))
    assert noted.eager == [4] * WARM_UP + [3]
    assert noted.recorded == [4, 3]
    assert noted.replayed == [4] + 2 * [4, 4, 4, 4, 3]


def test_the_rate_and_the_totals_of_a_recording_are_each_epochs_own():
    """They lie in tensors that a recording reads and adds to: the figures of eager steps follow, but for the
    rate's rounding to float32."""
    (means, weights), (others, other) = trained(None), trained(Graphs(Noted()))
    assert torch.tensor(others).allclose(torch.tensor(means), rtol=1e-4)
    for a, b in zip(weights, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_recorded_update_reads_the_rate_from_its_tensor():
    parameter = torch.nn.Parameter(torch.ones(3))
    cfg = compose(["optimizer.momentum=0", "optimizer.weight_decay=0", "optimizer.nesterov=false"])
    optimizer = optim.build([parameter], cfg.optimizer)
    optimizer.read_lr_from(torch.device("cpu"))
    held = optimizer._lr
    optimizer.lr = 0.25
    assert held is optimizer._lr
    assert optimizer.lr == 0.25
    parameter.grad = torch.ones(3)
    optimizer.step()
    assert parameter.tolist() == [0.75] * 3


@pytest.mark.parametrize(
    ("line", "gpu", "recorded"),
    [
        ("method=dgl", True, True),
        ("method=dgl device=cpu", True, False),
        ("method=dgl", False, False),
        ("method=dgl processes=2", True, False),
        ("method=bp_checkpoint", True, False),
    ],
)
def test_fast_records_a_step_where_it_can_be_and_is_the_same_run(line, gpu, recorded, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    if "processes" in line:  # as torchrun says it
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
    line = [*line.split(), "channels_last=false"]
    fast, plain = compose([*line, "fast=true"]), compose(line)
    assert (fast.channels_last, fast.cuda_graph) == (True, recorded)
    assert run_id(fast) == run_id(plain)
