"""Auxiliary networks have the published layers, depths, widths and numbers of parameters."""

import pytest
import torch

from localsl.aux_nets import augmented, depth, leap
from localsl.aux_nets.augmented import Augmentation
from localsl.aux_nets.decoders import ImageNetDecoder
from localsl.aux_nets.heads import BigDGLHead, InfoProHead, InfoProImageNetHead, MLAANImageNetHead, PredSimHead
from localsl.aux_nets.momentum import ChannelBias
from localsl.aux_nets.terms import Terms
from localsl.config import compose
from localsl.config.building import method_of, partition_of
from localsl.core.layers import AvgPoolTo
from localsl.core.plan import Plan, Site
from localsl.network import build_network, count_parameters
from tests.helpers.golden_auglocal import RESNET32


def plan_and_rule(*overrides):
    cfg = compose(["dataset=cifar10", *overrides])
    with torch.device("meta"):
        backbone = cfg.backbone.build(10)
    groups = method_of(cfg).groups(partition_of(cfg))
    return Plan(cfg.backbone, backbone, groups, 10, cfg.dataset.image_size), method_of(cfg)


def augmentation(rule):
    return Augmentation(rule.depth, rule.pyramid, rule.of_scale.norm)


def hidden_depths(plan, rule):
    return augmentation(rule).hidden(plan)


@pytest.mark.parametrize("d", RESNET32)
def test_auglocals_networks_on_resnet32_are_the_released_ones(d):
    network = build_network(compose(["method=auglocal", f"aux.depth={d}", "dataset=cifar10"]))
    parameters, expected = RESNET32[d]
    assert count_parameters(network) == parameters
    heads = [auxiliary["ce"] for auxiliary in network.auxiliary if len(auxiliary)]
    found = [" ".join(f"{i}/{s}" for i, s in zip(h.selected, h.strides, strict=True)) for h in heads]
    assert found == expected
    assert list(network.local_modules[-1].layers) == list(range(16 - d, 16))


# By d, for ResNet-110 with tau = 0.5: hidden layers of the auxiliary networks, and parameters of the whole network.
RESNET110 = {
    2: ([1] * 53, 4_897_068),
    3: ([2] * 52, 7_672_290),
    4: ([3] * 25 + [2] * 26, 8_971_416),
    5: ([4] * 17 + [3] * 32 + [2], 10_775_182),
    6: ([5] * 12 + [4] * 25 + [3] * 12, 12_010_180),
    7: ([6] * 10 + [5] * 19 + [4] * 19, 14_197_114),
    8: ([7] * 8 + [6] * 16 + [5] * 15 + [4] * 8, 15_242_480),
    9: ([8] * 7 + [7] * 13 + [6] * 13 + [5] * 12 + [4], 16_532_902),
}


@pytest.mark.parametrize("d", RESNET110)
def test_auglocals_depths_and_parameters_on_resnet110(d):
    cfg = compose(["method=auglocal", f"aux.depth={d}", "dataset=cifar10", "backbone=resnet110", "K=55"])
    depths, parameters = RESNET110[d]
    plan, rule = plan_and_rule("method=auglocal", f"aux.depth={d}", "backbone=resnet110", "K=55")
    assert hidden_depths(plan, rule) == depths
    with torch.device("meta"):
        assert count_parameters(build_network(cfg)) == parameters


SAMPLES = {  # for ResNet-110, by (d, layer): the selected layers and their strides
    (2, 0): ([54], [2]),
    (3, 0): ([27, 54], [2, 2]),
    (3, 19): ([36, 54], [1, 2]),
    (4, 18): ([30, 42, 54], [2, 2, 1]),
    (5, 0): ([14, 27, 40, 54], [1, 2, 2, 1]),
    (6, 0): ([11, 22, 32, 43, 54], [1, 2, 1, 2, 1]),
    (6, 18): ([27, 36, 45, 54], [2, 1, 2, 1]),
    (6, 48): ([50, 52, 54], [1, 1, 1]),
}


@pytest.mark.parametrize(("d", "layer"), SAMPLES)
def test_selected_layers_of_resnet110(d, layer):
    plan, rule = plan_and_rule("method=auglocal", f"aux.depth={d}", "backbone=resnet110", "K=55")
    selected = depth.uniform(layer, 55, hidden_depths(plan, rule)[layer])
    assert (selected, plan.architecture.auxiliary_strides(layer, selected)) == SAMPLES[d, layer]


def test_uniform_selection_is_that_of_the_papers_figure():
    """AugLocal's Figure 2 counts eight layers from 1; ties go to the even index counted from 0."""
    for layer, count, expected in ((1, 3, [3, 6, 8]), (2, 3, [4, 6, 8]), (3, 2, [5, 8]), (7, 3, [8])):
        assert [i + 1 for i in depth.uniform(layer - 1, 8, count)] == expected


def test_other_selections_choose_their_layers_and_strides():
    def head(selection, module):
        plan, rule = plan_and_rule(
            "method=auglocal", "aux.depth=6", f"aux.selection={selection}", "backbone=resnet110", "K=55"
        )
        site = plan.site(module)
        strategy = augmented.strategy(selection, plan.layers[site.layer].stage)
        return augmented.build(plan, site, 10, strategy, 1.0, augmentation(rule))

    assert head("sequential", 5).selected == [6, 7, 8, 9, 10]
    assert head("repetitive", 0).selected == [1] * 5
    assert head("repetitive", 20).selected == [20] * 4
    assert head("repetitive", 20)[-1].in_features == 32
    assert head("repetitive_s2", 5).strides == [2, 2, 1, 1, 1]
    assert head("repetitive_s2", 20).strides == [2, 1, 1, 1]
    assert head("repetitive/repetitive_s2/uniform", 5).strides == [1] * 5
    assert head("repetitive/repetitive_s2/uniform", 20).strides == [2, 1, 1, 1]
    assert head("repetitive/repetitive_s2/uniform", 40).selected[-1] == 54
    assert head("conv1x1", 5)[0].kernel_size == (1, 1)


# Width multipliers that match AugLocal's cost on ResNet-110, K=55: d, with 1x1 and with 3x3 convolutions.
MULTIPLIERS = [(2, 26.645, 2.964), (3, 5.151, 1.442), (6, 4.577, 1.422)]


@pytest.mark.parametrize(("d", "with_1x1", "with_3x3"), MULTIPLIERS)
def test_width_multipliers_match_auglocals_cost(d, with_1x1, with_3x3):
    plan, rule = plan_and_rule("method=dgl", f"aux.depth={d}", "backbone=resnet110", "K=55")
    sites = [plan.site(i) for i in range(plan.modules - 1)]
    for kernel, expected in ((1, with_1x1), (3, with_3x3)):
        found = augmented.matched_multiplier(plan, sites, kernel, 10, augmentation(rule))
        assert found == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("method", ["dgl", "infopro", "predsim"])
def test_aux_depth_gives_handcrafted_rules_auglocals_depths(method):
    network = build_network(compose([f"method={method}", "aux.depth=4"]))
    reference = build_network(compose(["method=auglocal", "aux.depth=4"]))
    assert len(network.local_modules) == len(reference.local_modules) == 13
    heads = [auxiliary["ce"] for auxiliary in network.auxiliary if len(auxiliary)]
    convolutions = [sum(isinstance(m, torch.nn.Conv2d) for m in head.modules()) for head in heads]
    assert convolutions == [3] * 6 + [2] * 6
    assert ("reconstruction" in network.auxiliary[0]) is (method == "infopro")
    assert ("similarity" in network.auxiliary[0]) is (method == "predsim")


def test_below_the_layer_wise_K_auglocal_keeps_the_groups_and_selects_after_their_last_layer():
    network = build_network(compose(["method=auglocal", "aux.depth=4", "K=4"]))
    assert [len(m.layers) for m in network.local_modules] == [4, 4, 4, 4]
    assert [a["ce"].selected for a in network.auxiliary if len(a)] == [[7, 11, 15], [11, 15], [13, 15]]


def test_infopros_decoder_under_auglocal_reads_the_modules_own_features():
    cfg = compose(["method=auglocal", "aux.depth=3", "aux.lambda_reconstruction=[1,1]"])
    network = build_network(cfg)
    assert network.auxiliary[0]["reconstruction"].layers[0].in_channels == 16


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("image", (2, 3, 4, 5)), ("map", (2, 4, 5, 3)), ("tokens", (2, 4, 3)), ("vector", (2, 3))],
)
def test_a_channel_bias_adds_one_number_per_channel_in_every_layout(layout, shape):
    bias = ChannelBias(3, layout)
    bias.value.data += torch.arange(3)
    channels = 1 if layout == "image" else -1
    for channel, added in enumerate(bias(torch.zeros(shape)).unbind(channels)):
        assert (added == channel).all()


@pytest.mark.parametrize(
    ("channels", "size", "target", "features"),
    [
        (16, 32, 512, 512),
        (32, 16, 1024, 1024),
        (64, 8, 512, 512),
        (64, 8, 4096, 4096),
        (16, 96, 512, 288),
        (64, 24, 512, 384),
        (64, 24, 2048, 1152),
    ],
)
def test_predsim_heads_pool_to_at_most_the_target_number_of_features(channels, size, target, features):
    head = PredSimHead(channels, size, 10, target)
    assert head[-1].in_features == features
    assert head(torch.zeros(2, channels, size, size)).shape == (2, 10)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("0c1f", [170, 330, 650]),
        ("0c2f", [3466, 5514, 9610]),
        ("1c1f", [5002, 19210, 37642]),
        ("1c2f", [10186, 28170, 46602]),
        ("1c3f", [26698, 44682, 63114]),
        ("2c2f", [19466, 65162, 83594]),
    ],
)
def test_parameters_of_infopro_heads(kind, parameters):
    heads = [InfoProHead(kind, channels, 64, 10) for channels in (16, 32, 64)]
    assert [count_parameters(head) for head in heads] == parameters


def test_parameters_of_the_big_dgl_head():
    assert [count_parameters(BigDGLHead(c, 10)) for c in (16, 32, 64)] == [635_146, 637_194, 641_290]


# By backbone and K: the layers that every module's leap bridge selects in MLAAN's released tables.
LEAPS = {
    "resnet32 15": ["2.0 3.0 3.2 3.4"] * 2
    + ["2.0 3.0 3.3 3.4", "2.0 3.0 3.2 3.4", "2.0 3.0 3.3 3.4"]
    + ["3.0 3.2 3.3 3.4"] * 5
    + ["3.1 3.2 3.4", "3.2 3.3 3.4", "3.3 3.4", "3.4"],
    "resnet32 8": ["2.0 3.0 3.2 3.4"] * 2
    + ["2.0 3.0 3.3 3.4"]
    + ["3.0 3.2 3.3 3.4"] * 2
    + ["3.2 3.3 3.4", "3.3 3.4"],
    "resnet110 54": ["2.0 3.0 3.2 3.17"] * 18
    + ["3.0 3.2 3.3 3.17"] * 17
    + ["3.0 3.3 3.4 3.17"]
    + ["3.8 3.17"] * 7
    + ["3.14 3.17"] * 4
    + ["3.15 3.17"] * 2
    + ["3.16 3.17"] * 3
    + ["3.17"],
    "resnet110 32": ["2.0 3.0 3.2 3.17"] * 11
    + ["3.0 3.2 3.3 3.17"] * 10
    + ["3.0 3.3 3.4 3.17"]
    + ["3.8 3.17"] * 4
    + ["3.14 3.17"] * 2
    + ["3.15 3.17", "3.16 3.17", "3.17"],
}


@pytest.mark.parametrize("case", LEAPS)
def test_leap_layers_of_the_released_tables(case):
    backbone, K = case.split()
    plan, _rule = plan_and_rule("method=mlaan_released", f"backbone={backbone}", f"K={K}")
    found = [" ".join(plan.layers[i].name for i in leap.select(plan, m)) for m in range(plan.modules - 1)]
    assert found == LEAPS[case]


@pytest.mark.parametrize("backbone", ["resnet20", "resnet44", "resnet56"])
def test_leap_layers_come_after_the_module_and_include_every_downsampling(backbone):
    layers = len(plan_and_rule(f"backbone={backbone}", "K=1")[0].layers)
    plan, _rule = plan_and_rule("method=mlaan", f"backbone={backbone}", f"K={layers}")
    for module in range(plan.modules - 1):
        chosen = leap.select(plan, module)
        assert chosen == sorted(set(chosen))
        assert plan.end(module) < chosen[0]
        assert chosen[-1] == layers - 1
        assert len(chosen) <= 4
        strides = [
            plan.layers[i].stride for i in range(plan.end(module) + 1, layers) if plan.layers[i].stride == 2
        ]
        assert sum(plan.layers[i].stride == 2 for i in chosen) == len(strides)  # otherwise shapes would not fit


IMAGENET = ["dataset.image_size=224", "dataset.num_classes=1000"]

# By backbone and K, for d = 2 to 6: millions of parameters of the auxiliary networks in AugLocal's code.
AUGLOCAL_ON_IMAGENET = {
    ("resnet34", 17): [62.5, 98.2, 122.2, 154.4, 176.3],
    ("resnet101", 34): [250.2, 311.2, 363.4, 406.9, 453.3],
    ("vgg13", 10): [20.6, 36.8, 49.7, 58.5, 64.6],
}


@pytest.mark.parametrize("network", AUGLOCAL_ON_IMAGENET)
def test_auglocals_networks_on_imagenet_have_the_released_number_of_parameters(network):
    name, K = network
    for d, expected in zip(range(2, 7), AUGLOCAL_ON_IMAGENET[network], strict=True):
        overrides = ["method=auglocal", f"backbone={name}", f"K={K}", f"aux.depth={d}", *IMAGENET]
        with torch.device("meta"):
            built = build_network(compose(overrides))
        assert count_parameters(built.auxiliary) / 1e6 == pytest.approx(expected, abs=0.05)
        assert len(built.local_modules) == K


# By backbone and module, for d = 5: widths and strides of the auxiliary network's layers in AugLocal's code.
WIDTHS_AND_STRIDES = {
    ("resnet34", 0): "128/2 256/2 256/1 512/2",
    ("resnet34", 4): "128/1 256/2 256/1 512/2",
    ("resnet34", 5): "256/2 256/1 256/1 512/2",
    ("resnet34", 7): "256/2 256/1 512/2 512/1",
    ("resnet34", 12): "256/1 512/2 512/1 512/1",
    ("resnet34", 15): "512/1",
    ("resnet101", 0): "1024/2 1024/2 1024/1 2048/2",
    ("resnet101", 4): "1024/2 1024/1 1024/1 2048/2",
    ("resnet101", 28): "1024/1 1024/1 2048/2 2048/1",
    ("resnet101", 30): "2048/2 2048/1 2048/1",
    ("resnet101", 32): "2048/1",
}


@pytest.mark.parametrize("case", WIDTHS_AND_STRIDES)
def test_auglocals_layers_on_imagenet_have_the_released_widths_and_strides(case):
    name, module = case
    plan, rule = plan_and_rule(
        "method=auglocal", "aux.depth=5", f"backbone={name}", f"K={17 if '34' in name else 34}", *IMAGENET
    )
    with torch.device("meta"):
        head = augmented.build(plan, plan.site(module), 1000, "uniform", 1.0, augmentation(rule))
    found = zip((plan.layers[i].channels for i in head.selected), head.strides, strict=True)
    assert " ".join(f"{width}/{stride}" for width, stride in found) == WIDTHS_AND_STRIDES[case]
    assert not any(isinstance(m, torch.nn.BatchNorm1d) for m in head.modules())


def test_auglocals_networks_on_vgg_pool_once_where_the_width_changes():
    """One pooling is enough even where the selection skips several of the backbone's."""
    plan, _rule = plan_and_rule("method=auglocal", "aux.depth=3", "backbone=vgg13", "K=10", *IMAGENET)
    assert plan.architecture.auxiliary_strides(0, [4, 9]) == [2, 2]
    assert plan.architecture.auxiliary_strides(6, [8, 9]) == [1, 1]
    plan, rule = plan_and_rule("method=auglocal", "aux.depth=2", "backbone=vgg19", "K=16")
    assert plan.modules == 15
    assert augmented.build(plan, plan.site(0), 10, "uniform", 1.0, augmentation(rule))[-2].num_features == 512


def test_strides_follow_the_sizes_where_widths_do_not_double():
    plan, _rule = plan_and_rule("method=auglocal", "aux.depth=4", "backbone=mobilenetv2", "K=19")
    assert plan.architecture.auxiliary_strides(0, [6, 12, 18]) == [2, 2, 2]
    assert plan.architecture.auxiliary_strides(7, [12, 18]) == [1, 2]


@pytest.mark.parametrize(
    ("overrides", "layers", "pooled"),
    [
        (["backbone=vgg13", "K=10", *IMAGENET], [1, 3, 5, 7, 8], [56, 28, 14, 7, 7]),
        (["backbone=mobilenetv2", "K=19"], [0, 1, 3, 4, 6], [8, 8, 8, 4, 4]),
    ],
)
def test_dgl_heads_pool_by_the_first_size_of_layers_of_equal_width(overrides, layers, pooled):
    """VGG's last two stages have equal widths; MobileNetV2's third stage has the stem's width at half its size."""
    plan, rule = plan_and_rule("method=dgl", *overrides)
    heads = [Terms(plan, rule.aux).head(Site(0, i, plan.layers[i].channels, plan.sizes[i])) for i in layers]
    assert [head[0].output_size for head in heads] == pooled


@pytest.mark.parametrize(("name", "parameters"), [("resnet101", 49_859_547), ("resnet152", 65_503_195)])
def test_the_released_man_on_imagenet_has_its_parameters_and_weights(name, parameters):
    """The released counts include the momentum layer."""
    with torch.device("meta"):
        network = build_network(compose(["method=man_released", f"backbone={name}", "K=2", *IMAGENET]))
    assert sum(p.numel() for p in network.parameters()) == parameters
    weights = network.local_modules[0].objective.weights
    assert weights == {"reconstruction": 5, "ce": 0.75}


def test_infopros_weights_on_imagenet():
    for name, ce in (("resnet101", 0.75), ("resnet152", 1), ("resnext101_32x8d", 0.75)):
        cfg = compose(["method=infopro", f"backbone={name}", "K=2"])
        assert (cfg.aux.lambda_reconstruction, cfg.aux.lambda_ce) == ([5, 5], [ce, ce])


def widths(network):
    return [m.out_channels for m in network.modules() if isinstance(m, torch.nn.Conv2d)]


def test_widths_of_imagenet_heads_and_decoders():
    assert widths(InfoProImageNetHead(512, 2048, 1000)) == [128, 256, 512, 2048]
    assert widths(InfoProImageNetHead(1024, 2048, 1000)) == [256, 256, 512, 2048]
    assert widths(ImageNetDecoder(512, 28, 224)) == [128, 32, 12, 3]
    wide = ImageNetDecoder(1024, 14, 224)
    assert widths(wide) == [192, 64, 32, 12, 3]
    assert [step[0].kernel_size[0] for step in wide.steps] == [1, 1, 3, 3]
    assert ImageNetDecoder(8, 9, 67)(torch.zeros(2, 8, 9, 9)).shape == (2, 3, 67, 67)
    counts = [count_parameters(MLAANImageNetHead(c, 1000)) for c in (64, 128, 256, 512)]
    assert counts == [81_768, 195_304, 257_000, 513_000]


def test_aux_scale_chooses_between_imagenet_and_cifar_heads():
    overrides = ["method=infopro", "backbone=resnet34", "K=2"]
    assert isinstance(build_network(compose(overrides)).auxiliary[0]["ce"], InfoProImageNetHead)
    network = build_network(compose([*overrides, "aux.scale=cifar"]))
    assert isinstance(network.auxiliary[0]["ce"], InfoProHead)


# By backbone and K: the layers that every module's leap bridge selects in MLAAN's released tables for ImageNet.
LEAPS_ON_IMAGENET = {
    "resnet34 17": ["2.0 2.1 3.0 4.0 4.2"] * 4
    + ["2.1 3.0 4.0 4.2"] * 4
    + ["3.1 4.0 4.1"] * 6
    + ["4.1 4.1 4.2", "4.1 4.2"],
    "resnet101 34": ["1.0 2.0 3.0 4.0 4.2"]
    + ["2.0 3.0 4.0 4.2"] * 3
    + ["3.0 4.0 4.1"] * 4
    + ["4.0 4.1"] * 23
    + ["4.1 4.2"] * 2,
    "resnet152 51": ["1.0 2.0 3.0 4.0 4.2"]
    + ["2.0 3.0 4.0 4.2"] * 3
    + ["3.0 4.0 4.1"] * 8
    + ["4.0 4.1"] * 36
    + ["4.1 4.2"] * 2,
}


@pytest.mark.parametrize("case", LEAPS_ON_IMAGENET)
def test_leap_layers_of_the_released_tables_for_imagenet(case):
    name, K = case.split()
    plan, _rule = plan_and_rule("method=mlaan", f"backbone={name}", f"K={K}")
    found = [" ".join(plan.layers[i].name for i in leap.select(plan, m)) for m in range(plan.modules - 1)]
    assert found == LEAPS_ON_IMAGENET[case]


@pytest.mark.parametrize(
    "name", ["vgg19", "mobilenetv2", "efficientnetb0", "regnetx_400mf", "resnext101_32x8d"]
)
def test_leap_bridges_fit_any_backbone(name):
    layers = len(plan_and_rule(f"backbone={name}", "K=1")[0].layers)
    plan, rule = plan_and_rule("method=mlaan", f"backbone={name}", f"K={layers}")
    with torch.device("meta"):
        for module in range(0, plan.modules - 1, 3):
            site = plan.site(module)
            bridged = leap.bridge(plan, module, rule, 0.995)(
                torch.zeros(2, site.channels, site.size, site.size)
            )
            assert bridged.shape[1:] == (plan.layers[-1].channels, plan.sizes[-1], plan.sizes[-1])


def test_settings_of_the_released_mlaan_on_imagenet():
    cfg = compose(["method=mlaan_released", "backbone=resnet34", "K=17"])
    assert (cfg.method.cascade, cfg.method.output, cfg.ema.moves, cfg.ema.start) == (
        3,
        "both",
        "last_twice",
        "fresh",
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("size", "to", "adaptive"), [(32, 8, False), (8, 2, False), (7, 2, True), (8, 1, False)]
)
def test_pooling_is_adaptive_only_where_windows_differ(size, to, adaptive, layout):
    """Adaptive pooling's backward is not deterministic on CUDA. Results are equal bit for bit either way."""
    image = torch.randn(4, 5, size, size).contiguous(memory_format=layout)
    results = []
    for pool in (AvgPoolTo(to), torch.nn.AdaptiveAvgPool2d(to)):
        x = image.clone().requires_grad_()
        y = pool(x)
        (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
        results.append((y, x.grad))
    (found, gradient), (expected, expected_gradient) = results
    assert ("Adaptive" in found.grad_fn.name()) == adaptive
    assert torch.equal(found, expected)
    assert torch.equal(gradient, expected_gradient)


def test_pooling_windows_may_be_rectangular():
    image = torch.randn(2, 3, 8, 6)
    torch.testing.assert_close(AvgPoolTo((2, 3))(image), torch.nn.functional.adaptive_avg_pool2d(image, (2, 3)))
    torch.testing.assert_close(AvgPoolTo((4, 1))(image), torch.nn.functional.adaptive_avg_pool2d(image, (4, 1)))


@pytest.mark.parametrize("rule", ["dgl", "infopro", "predsim", "mlaan", "auglocal aux.depth=3"])
def test_no_rule_pools_adaptively_on_small_images(rule):
    network = build_network(compose(["dataset=cifar10", *f"method={rule}".split(), "K=4"]))
    pools = [m for m in network.modules() if isinstance(m, torch.nn.AdaptiveAvgPool2d)]
    assert all(isinstance(pool, AvgPoolTo) or pool.output_size == 1 for pool in pools)
