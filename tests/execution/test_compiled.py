"""compile=true: equal shapes share a compilation, small batches ask for none, the numbers stay."""

import pytest
import torch

from localsl.config import compose
from localsl.execution.compiled import Compiled
from localsl.network import build_network
from localsl.train.optim import SGD
from localsl.train.step import train_step
from tests.helpers.command import records, typed
from tests.helpers.config import problems

BATCH = 8


@pytest.fixture
def graphs(monkeypatch):
    """Counts compilations: the graphs are captured as ever, and run by torch's own kernels."""
    captured = []

    def backend(graph, inputs):
        captured.append(inputs)
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: real(f, backend=backend, **how))
    yield captured
    torch.compiler.reset()


def trained(overrides, compiled, sizes):
    """The losses and weights after a step on a batch of each size."""
    cfg = compose([*overrides, "dataset=digits", f"batch_size={BATCH}"])
    network, losses = build_network(cfg).train(), []
    if compiled:
        network.path_losses = Compiled(BATCH)
    optimizer = SGD(network.parameters(), cfg.optimizer)
    for seed, size in enumerate(sizes):
        images = torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        losses += [
            loss.total.detach() for loss in train_step(network, optimizer, images, torch.arange(size) % 10)
        ]
    return [*losses, *network.state_dict().values()]


@pytest.mark.parametrize(
    ("rule", "at_most"),
    [
        ("dgl", 7),
        ("predsim", 7),
        ("infopro", 7),
        ("auglocal aux.depth=4", 9),
        pytest.param("man", 9, marks=pytest.mark.slow),
        pytest.param("mlaan", 19, marks=pytest.mark.slow),
    ],
)
def test_modules_of_equal_shape_share_a_compilation(rule, at_most, graphs):
    """ResNet-32 has 16 modules; its cascades (MLAAN) run 29 paths."""
    name, *more = rule.split()
    overrides = [f"method={name}", *more, "K=16"]
    plain = trained(overrides, False, [BATCH, BATCH, 5])
    compiled = trained(overrides, True, [BATCH, BATCH, 5])
    assert 1 < len(graphs) <= at_most
    for one, other in zip(plain, compiled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_depth_costs_no_compilation(graphs):
    trained(["method=dgl", "K=16"], True, [BATCH])
    few = len(graphs)
    torch.compiler.reset()
    graphs.clear()
    trained(["method=dgl", "backbone=resnet110", "K=55"], True, [BATCH])
    assert len(graphs) == few


@pytest.mark.slow
def test_inductors_kernels_give_the_same_numbers():
    """After one step, within 1e-4 of the largest number of a tensor: sums are taken in another order. Later a
    ReLU may be on the other side of 0.
    """
    overrides = ["method=dgl", "backbone=resnet20", "K=4"]
    plain, compiled = (trained(overrides, c, [BATCH]) for c in (False, True))
    torch.compiler.reset()
    for one, other in zip(plain, compiled, strict=True):
        scale = float(one.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * scale + 1e-6)


@pytest.mark.slow
def test_a_compiled_run_tells_what_compiling_took(monkeypatch, capsys):
    line = ["compile=true", "backbone=resnet20", "K=2", "schedule=smoke", "schedule.epochs=1"]
    sizes = ["dataset.train_subset=50", "dataset.test_subset=20", "batch_size=20"]
    assert typed(monkeypatch, *line, *sizes) == 0
    (record,) = records()
    assert record["compiled"]["graphs"] == 2
    assert 0 < record["compiled"]["seconds"] < record["seconds"]
    assert record["peak_memory_bytes"] is None
    assert "compiled 2 graphs in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("compile=true memory=lean", "memory"),
        ("method=bp_checkpoint compile=true", "compile"),
        ("method=bp_checkpoint memory=lean", "memory"),
        ("cuda_graph=true device=cpu", "cuda_graph"),
    ],
)
def test_what_does_not_go_together_is_told(line, key):
    (problem,) = problems(*line.split())
    assert problem.key == key
