"""The ResNets: sizes, shapes, initial weights."""

import math

import pytest
import torch
from torch import nn

from localsl.config import compose
from localsl.network import build_network, count_parameters


@pytest.mark.parametrize(
    ("depth", "parameters"),
    # ResNet-32 and ResNet-110 as counted in AugLocal's code; each block more in all three stages adds 97,216.
    [(32, 466_906), (110, 1_730_714), (20, 272_474), (44, 661_338), (56, 855_770)],
)
def test_parameters(depth, parameters):
    cfg = compose([f"backbone=resnet{depth}", "K=1"])
    assert count_parameters(cfg.backbone.build(10)) == parameters


def test_layers_are_as_described():
    cfg = compose()
    backbone = cfg.backbone.build(10)
    x, size = torch.randn(2, 3, 13, 13), 13
    for layer, described in zip(backbone.layers, cfg.backbone.local_layers(), strict=True):
        x, size = layer(x), -(-size // described.stride)
        assert x.shape == (2, described.channels, size, size)
    assert backbone.classifier(x).shape == (2, 10)


def test_initial_weights():
    network = build_network(compose())
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            expected = math.sqrt(2 / (module.kernel_size[0] * module.kernel_size[1] * module.out_channels))
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.08)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert bool((module.weight == 1).all())
            assert bool((module.bias == 0).all())
            assert (module.momentum, module.eps) == (0.1, 1e-5)
        if isinstance(module, nn.Linear):
            assert float(module.weight.detach().abs().max()) <= 1 / math.sqrt(module.in_features)
