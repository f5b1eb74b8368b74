"""memory=lean: the same bits, less memory."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from localsl.config import compose
from localsl.execution.lean import Lean
from localsl.measure.footprint import footprint
from localsl.network import build_network
from localsl.train.optim import SGD
from localsl.train.peak_memory import LiveBytes
from localsl.train.step import train_step, training_forward
from tests.helpers.rules import RULES, overrides_of

CPU = torch.device("cpu")


def two_steps(overrides, images, targets):
    """Losses, weights and gradients."""
    torch.manual_seed(0)  # of dropout
    cfg = compose(overrides)
    network, losses = build_network(cfg), []
    optimizer = SGD(network.parameters(), cfg.optimizer)
    for _ in range(2):
        for loss in train_step(network, optimizer, images, targets, training_forward(cfg, CPU)):
            losses.append(loss.total.detach())
    return [*losses, *network.state_dict().values(), *(p.grad for p in network.parameters())]


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "bp_checkpoint"])
def test_the_bits_are_those_of_the_plain_step(rule, images_and_targets):
    overrides = [*overrides_of(rule), "backbone=resnet20", "K=4"]
    plain = two_steps(overrides, *images_and_targets)
    for one, other in zip(plain, two_steps([*overrides, "memory=lean"], *images_and_targets), strict=True):
        assert one is other is None or torch.equal(one, other)


@pytest.mark.parametrize("rule", ["dgl", "man ema.bias=channel"])
def test_bf16_too(rule, images_and_targets):
    """A bias per channel adds fp32 to bf16."""
    overrides = [*f"method={rule}".split(), "K=16", "precision=bf16"]
    plain = two_steps(overrides, *images_and_targets)
    lean = two_steps([*overrides, "memory=lean"], *images_and_targets)
    assert all(torch.equal(a, b) for a, b in zip(plain, lean, strict=True) if a is not None)


@pytest.mark.parametrize(("rule", "at_most"), [("bp", 0.65), ("auglocal aux.depth=6", 0.8)])
def test_less_is_kept(rule, at_most):
    overrides = [*f"method={rule}".split(), "dataset=cifar10"]
    plain, lean = (footprint(compose([*overrides, *more])) for more in ([], ["memory=lean"]))
    assert lean.saved < at_most * plain.saved
    assert lean.peak < at_most * plain.peak


def test_what_is_not_followed_is_kept_as_ever():
    """A ReLU that is not in place, one of something else, a result used twice, other changes in place."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(True))
    norm, convolution, x = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), torch.randn(5, 3, 8, 8)
    found = []
    for mode in (nullcontext, Lean):
        with mode():
            normalised = norm(network(x))
            y = convolution(torch.relu_(normalised + convolution(normalised))) * normalised
            y = convolution(F.leaky_relu(norm(y), 0.1, inplace=True)).mul_(2)
        found.append(torch.autograd.grad(y.square().sum(), [*network.parameters(), *norm.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_nothing_outlives_the_backward():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True), nn.Conv2d(4, 4, 3))
    x = torch.randn(5, 3, 8, 8)
    network(x).sum().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    with LiveBytes([x, *network.parameters(), *network.buffers(), *gradients]) as live:
        before = live.now
        with Lean():
            loss = network(x).square().sum()
        loss.backward()
        del loss
        assert live.now == before


@pytest.mark.slow
def test_a_deep_network_needs_15_percent_less_than_published_implementations():
    """They have 1.12 GiB of live bytes in a step of AugLocal d=6 on ResNet-110, batch 1024."""
    overrides = ["method=auglocal", "aux.depth=6", "dataset=cifar10", "backbone=resnet110", "K=55"]
    assert footprint(compose([*overrides, "memory=lean"])).peak <= 0.85 * 1.12 * 2**30
