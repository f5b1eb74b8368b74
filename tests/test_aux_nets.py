"""Auxiliary networks: AugLocal's selections, depths and widths, LAM's layers, the heads' shapes."""

import pytest
import torch

from localsl.aux_nets import augmented, depth, leap
from localsl.aux_nets.heads import BigDGLHead, InfoProHead, PredSimHead
from localsl.config import compose
from localsl.network import build_network, count_parameters
from localsl.plan import Plan
from tests.golden_auglocal import RESNET32


def planned(*overrides):
    cfg = compose(["dataset=cifar10", *overrides])
    with torch.device("meta"):
        backbone = cfg.backbone.build(10)
    return Plan(cfg, backbone, cfg.method.groups(cfg))


@pytest.mark.parametrize("d", RESNET32)
def test_auglocal_on_resnet32(d):
    network = build_network(compose(["method=auglocal", f"aux.depth={d}", "dataset=cifar10"]))
    parameters, expected = RESNET32[d]
    assert count_parameters(network) == parameters
    heads = [auxiliary["ce"] for auxiliary in network.auxiliary if len(auxiliary)]
    found = [" ".join(f"{i}/{s}" for i, s in zip(h.selected, h.strides, strict=True)) for h in heads]
    assert found == expected
    assert list(network.local_modules[-1].layers) == list(range(16 - d, 16))


# ResNet-110, tau = 0.5: depths of the auxiliary networks, parameters.
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
def test_auglocal_on_resnet110(d):
    cfg = compose(["method=auglocal", f"aux.depth={d}", "dataset=cifar10", "backbone=resnet110", "K=55"])
    depths, parameters = RESNET110[d]
    plan = planned("method=auglocal", f"aux.depth={d}", "backbone=resnet110", "K=55")
    assert augmented.depths(plan) == depths
    with torch.device("meta"):
        assert count_parameters(build_network(cfg)) == parameters


SAMPLES = {  # (d, layer): selected layers and their strides, ResNet-110
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
    plan = planned("method=auglocal", f"aux.depth={d}", "backbone=resnet110", "K=55")
    selected = depth.uniform(layer, 55, augmented.depths(plan)[layer])
    assert (selected, plan.cfg.backbone.owed(layer, selected)) == SAMPLES[d, layer]


def test_uniform_selection_of_the_papers_figure():
    """Figure 2, eight layers counted from 1: ties go to the even index, counted from 0."""
    for layer, count, expected in ((1, 3, [3, 6, 8]), (2, 3, [4, 6, 8]), (3, 2, [5, 8]), (7, 3, [8])):
        assert [i + 1 for i in depth.uniform(layer - 1, 8, count)] == expected


def test_other_strategies():
    def head(selection, module):
        plan = planned(
            "method=auglocal", "aux.depth=6", f"aux.selection={selection}", "backbone=resnet110", "K=55"
        )
        site = plan.site(module)
        how = augmented.strategy(selection, plan.layers[site.layer].stage)
        return augmented.build(plan, site, 10, how, 1.0)

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


# Width multipliers that match AugLocal's cost on ResNet-110, K=55: d, 1x1, 3x3.
MULTIPLIERS = [(2, 26.645, 2.964), (3, 5.151, 1.442), (6, 4.577, 1.422)]


@pytest.mark.parametrize(("d", "by_1x1", "by_3x3"), MULTIPLIERS)
def test_matched_multipliers(d, by_1x1, by_3x3):
    plan = planned("method=dgl", f"aux.depth={d}", "backbone=resnet110", "K=55")
    sites = [plan.site(i) for i in range(plan.modules - 1)]
    for kernel, expected in ((1, by_1x1), (3, by_3x3)):
        found = augmented.matched_multiplier(plan, sites, kernel, 10)
        assert found == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("method", ["dgl", "infopro", "predsim"])
def test_depth_of_the_handcrafted_rules(method):
    network = build_network(compose([f"method={method}", "aux.depth=4"]))
    reference = build_network(compose(["method=auglocal", "aux.depth=4"]))
    assert len(network.local_modules) == len(reference.local_modules) == 13
    heads = [auxiliary["ce"] for auxiliary in network.auxiliary if len(auxiliary)]
    convolutions = [sum(isinstance(m, torch.nn.Conv2d) for m in head.modules()) for head in heads]
    assert convolutions == [3] * 6 + [2] * 6
    assert ("reconstruction" in network.auxiliary[0]) is (method == "infopro")
    assert ("similarity" in network.auxiliary[0]) is (method == "predsim")


def test_below_the_layer_wise_K_groups_stay_and_select_from_their_last_layer():
    network = build_network(compose(["method=auglocal", "aux.depth=4", "K=4"]))
    assert [len(m.layers) for m in network.local_modules] == [4, 4, 4, 4]
    assert [a["ce"].selected for a in network.auxiliary if len(a)] == [[7, 11, 15], [11, 15], [13, 15]]


def test_auglocal_with_infopros_decoder_on_the_modules_own_features():
    cfg = compose(["method=auglocal", "aux.depth=3", "aux.lambda_reconstruction=[1,1]"])
    network = build_network(cfg)
    assert network.auxiliary[0]["reconstruction"].layers[0].in_channels == 16


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
def test_predsim_pooling(channels, size, target, features):
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
def test_infopro_heads(kind, parameters):
    heads = [InfoProHead(kind, channels, 64, 10) for channels in (16, 32, 64)]
    assert [count_parameters(head) for head in heads] == parameters


def test_the_big_dgl_head():
    assert [count_parameters(BigDGLHead(c, 10)) for c in (16, 32, 64)] == [635_146, 637_194, 641_290]


# Layers of MLAAN's released tables.
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
    plan = planned("method=mlaan_released", f"backbone={backbone}", f"K={K}")
    found = [" ".join(plan.layers[i].name for i in leap.select(plan, m)) for m in range(plan.modules - 1)]
    assert found == LEAPS[case]


@pytest.mark.parametrize("backbone", ["resnet20", "resnet44", "resnet56"])
def test_leap_layers_of_any_backbone(backbone):
    layers = len(planned(f"backbone={backbone}", "K=1").layers)
    plan = planned("method=mlaan", f"backbone={backbone}", f"K={layers}")
    for module in range(plan.modules - 1):
        chosen = leap.select(plan, module)
        assert chosen == sorted(set(chosen))
        assert plan.end(module) < chosen[0]
        assert chosen[-1] == layers - 1
        assert len(chosen) <= 4
        strides = [
            plan.layers[i].stride for i in range(plan.end(module) + 1, layers) if plan.layers[i].stride == 2
        ]
        assert sum(plan.layers[i].stride == 2 for i in chosen) == len(strides)  # so that shapes fit
