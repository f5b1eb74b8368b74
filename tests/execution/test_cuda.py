"""On a GPU the numbers are the CPU's, however a step is executed, and its memory is what was foretold."""

import pytest
import torch

from localsl.config import compose
from localsl.execution import devices
from localsl.measure.footprint import allocated, footprint
from localsl.network import build_network
from localsl.train import optim
from localsl.train.step import Totals, counted_step, train_epoch, training_forward
from tests.helpers import golden
from tests.helpers.rules import backpropagated, filled

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DEVICE = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def on_gpu(*overrides):
    return filled(*overrides).to(DEVICE), [tensor.to(DEVICE) for tensor in golden.batch()]


@pytest.mark.parametrize("name", golden.RELEASED)
def test_golden_losses_of_the_released_code(name):
    expected = golden.RELEASED[name]
    network, batch = on_gpu(*expected.overrides.split())
    totals = [float(loss.total.detach()) for loss in backpropagated(network, *batch)]
    assert totals == pytest.approx(expected.losses[0], rel=1e-4)


def test_golden_losses_of_auglocal():
    network, batch = on_gpu("method=auglocal", "aux.depth=3")
    totals = [float(loss.total.detach()) for loss in backpropagated(network, *batch)]
    assert totals == pytest.approx([*golden.AUGLOCAL_D3, golden.OUTPUT], rel=1e-4)


def trained(overrides, sizes=(16, 16, 16, 16, 16, 7)):
    """Loss of every module over an epoch of batches of noise, and the weights after it."""
    cfg = compose([*overrides, "batch_size=16", "backbone=resnet20", "device=cuda"])
    network = build_network(cfg)
    devices.place(network, cfg, DEVICE)
    optimizer, totals = optim.build(network.parameters(), cfg.optimizer), Totals(network)
    optimizer.lr = 1e-3
    noise = torch.Generator().manual_seed(0)
    images = [torch.randn(size, 3, 8, 8, generator=noise).to(DEVICE) for size in sizes]
    batches = [(batch, torch.arange(len(batch), device=DEVICE) % 10) for batch in images]
    step = counted_step(network, optimizer, totals, training_forward(cfg, DEVICE), devices.graphs(cfg))
    train_epoch(network, step, batches, totals)
    return [mean.loss for mean in totals.means()], [p.detach().clone() for p in network.parameters()]


@pytest.mark.parametrize("rule", ["bp", "dgl", "predsim", "infopro", "man", "mlaan", "auglocal aux.depth=3"])
@pytest.mark.parametrize("how", ["cuda_graph=true", "memory=lean", "optimizer.per_module=true"])
def test_however_a_step_is_executed(rule, how):
    """Weights within 1e-5 after six steps, the last of a smaller batch."""
    overrides = [*f"method={rule}".split(), "K=4"]
    (losses, weights), (others, other) = trained(overrides), trained([*overrides, how])
    assert others == pytest.approx(losses, rel=1e-4)
    for a, b in zip(weights, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", [["compile=true"], ["compile=true", "cuda_graph=true"]])
def test_compiled(how):
    overrides = ["method=dgl", "K=4"]
    (losses, _), (others, _) = trained(overrides), trained([*overrides, *how])
    assert others == pytest.approx(losses, rel=1e-3)


@pytest.mark.parametrize("rule", ["bp", "dgl", "predsim", "infopro", "auglocal aux.depth=6", "mlaan"])
def test_the_allocators_peak_is_the_traced_one(rule):
    """Within 2 %, of tensors: beside them kernels have workspaces, of which cuDNN's fastest take 0.2 to 0.7 GiB."""
    cfg = compose([*f"method={rule}".split(), "dataset=cifar10", "batch_size=512", "device=cuda"])
    found = allocated(cfg)
    assert found.live == pytest.approx(footprint(cfg).peak, rel=0.02)
    assert found.live <= found.peak
