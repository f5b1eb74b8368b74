"""Backbones have the expected sizes, shapes and initial weights, and exchange weights with torchvision."""

import math

import pytest
import torch
import torchvision
from torch import nn

from localsl.config import compose
from localsl.network import build_network, count_parameters
from tests.helpers.config import problems


@pytest.mark.parametrize(
    ("depth", "parameters"),
    # ResNet-32 and ResNet-110 as counted in AugLocal's code; each further block in all three stages adds 97,216.
    [(32, 466_906), (110, 1_730_714), (20, 272_474), (44, 661_338), (56, 855_770)],
)
def test_parameters_of_the_cifar_resnets(depth, parameters):
    cfg = compose([f"backbone=resnet{depth}", "K=1"])
    assert count_parameters(cfg.backbone.build(10)) == parameters


# Classes and parameters as counted in AugLocal's code, in torchvision and, for AugLocal's Table 8, in the CIFAR
# implementation. Its EfficientNet has 1,088 more, in a first expansion that it does not use.
PARAMETERS = {
    "vgg19": (10, 20_040_522),
    "mobilenetv2": (10, 2_296_922),
    "efficientnetb0": (10, 3_599_686 - 1_088),
    "regnetx_400mf": (10, 4_779_338),
    "vgg13": (1000, 133_053_736),
    "resnet34": (1000, 21_797_672),
    "resnet101": (1000, 44_549_160),
    "resnet152": (1000, 60_192_808),
    "resnext101_32x8d": (1000, 88_791_336),
}


def settings_of(name):
    return compose([f"backbone={name}", "K=1"]).backbone


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_the_other_backbones(name):
    classes, parameters = PARAMETERS[name]
    with torch.device("meta"):
        assert count_parameters(settings_of(name).build(classes)) == parameters


@pytest.mark.parametrize("name", ["resnet32", *PARAMETERS])
def test_layers_have_the_described_channels_and_strides(name):
    settings = settings_of(name)
    with torch.device("meta"):
        backbone = settings.build(10)
        x, size = torch.randn(2, 3, 13, 13), 13
    for layer, described in zip(backbone.layers, settings.local_layers(), strict=True):
        x, size = layer(x), -(-size // described.stride)
        assert x.shape == (2, described.channels, size, size)
    assert backbone.classifier(x).shape == (2, 10)


def test_initial_weights_of_convolutions_batchnorm_and_linear_layers():
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


TORCHVISION = ["resnet34", "resnet101", "resnet152", "resnext101_32x8d", "vgg13"]


def torchvision_model(name):
    return getattr(torchvision.models, {"vgg13": "vgg13_bn"}.get(name, name))(weights=None)


@pytest.mark.parametrize("name", TORCHVISION)
def test_converted_weights_have_torchvisions_names_and_shapes(name):
    with torch.device("meta"):
        backbone, theirs = settings_of(name).build(1000), torchvision_model(name)
    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    found = settings_of(name).to_torchvision(backbone).items()
    assert {key: tuple(value.shape) for key, value in found} == shapes


@pytest.mark.parametrize(
    "name", ["resnet34", *(pytest.param(name, marks=pytest.mark.slow) for name in TORCHVISION[1:])]
)
def test_torchvisions_weights_give_torchvisions_logits(name):
    theirs, settings = torchvision_model(name), settings_of(name)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # initial values are equal in all layers and would hide a swap
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                values.data.uniform_(0.5, 1)
    backbone = settings.build(1000)
    settings.load_torchvision(backbone, theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.eval()(images)
        torch.testing.assert_close(backbone.eval()(images), expected, rtol=1e-5, atol=1e-5)
        torchvision_model(name).load_state_dict(settings.to_torchvision(backbone))
    assert float(expected.std()) > 0


def test_weights_of_another_network_are_refused():
    settings = settings_of("resnet34")
    with torch.device("meta"):
        backbone, theirs = settings.build(1000), torchvision_model("resnet101")
    with pytest.raises(ValueError, match="these weights are not resnet34's"):
        settings.load_torchvision(backbone, theirs.state_dict())
    with pytest.raises(NotImplementedError, match="resnet32"):
        settings_of("resnet32").to_torchvision(settings_of("resnet32").build(10))


def test_vgg_has_the_released_initial_weights_on_imagenet():
    """Biases are 0 and linear layers N(0, 0.01^2); auxiliary networks have torch's defaults."""
    small = ["backbone=vgg13", "backbone.widths=[8,8,8,8,8]", "backbone.hidden=64", "backbone.name=small"]
    network = build_network(compose([*small, "method=auglocal", "aux.depth=2", "K=10"]))
    first, last = network.backbone.layers[0].conv, network.backbone.classifier[-1]
    assert not first.bias.any()
    assert not last.bias.any()
    assert float(last.weight.detach().std()) == pytest.approx(0.01, rel=0.2)
    convolution = network.auxiliary[0]["ce"][0].conv
    assert bool(convolution.bias.any())
    assert float(convolution.weight.detach().abs().max()) <= 1 / math.sqrt(9 * 8)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["backbone=mobilenetv2", "backbone.strides=[1,1]"], "backbone.strides"),
        (["backbone=efficientnetb0", "backbone.kernels=[3,3,5,3,5,5,4]"], "backbone.kernels"),
        (["backbone=efficientnetb0", "method=predsim_original"], "backbone.negative_slope"),
        (["backbone=regnetx_400mf", "backbone.group_width=7"], "backbone.widths"),
        (["backbone=resnet34", "backbone.blocks=[3,4,5,3]"], "backbone.name"),
        (["backbone=resnet34", "backbone.block=wide"], "backbone.block"),
        (["backbone=vgg13", "+backbone.stem=64"], "+backbone.stem"),
    ],
)
def test_a_wrong_backbone_setting_is_reported_by_its_key(overrides, key):
    assert key in [problem.key for problem in problems(*overrides, "K=1")]
