"""How K cuts a backbone into modules: published tables, the stem, and the even split."""

import pytest

from localsl.config import compose
from localsl.config.building import partition_of
from localsl.core.partition import even
from localsl.published import constants


def sizes(*overrides):
    """The number of local layers in every module."""
    return [len(group) for group in partition_of(compose(overrides)).groups()]


def blocks(*overrides):
    """The number of blocks in every module, without the stem."""
    first, *rest = sizes(*overrides)
    return [first - 1, *rest]


@pytest.mark.parametrize(("backbone", "layers"), [(20, 10), (32, 16), (44, 22), (56, 28), (110, 55)])
def test_number_of_local_layers_of_the_cifar_resnets(backbone, layers):
    assert len(compose([f"backbone=resnet{backbone}", "K=1"]).backbone.local_layers()) == layers


# By depth and K, the blocks of every module as published (tables of MLAAN, MAN and InfoPro), without the stem.
TABLES = {
    32: {1: [15], 2: [7, 8], 3: [5] * 3, 4: [3, 4, 4, 4], 8: [1, *[2] * 7], 15: [1] * 15},
    110: {
        1: [54],
        2: [27, 27],
        3: [18] * 3,
        4: [12, 14, 14, 14],
        8: [5, *[7] * 7],
        16: [2, *[3] * 8, *[4] * 7],
        32: [2, 1, 2, 1, 2, 2, 2, 2, 1, 2, 1] * 2 + [2, 2, 1, 2, 1, 2, 2, 2, 2, 2],
        54: [1] * 54,
    },
}


@pytest.mark.parametrize(("depth", "K"), [(depth, K) for depth, table in TABLES.items() for K in table])
def test_modules_have_the_published_numbers_of_blocks(depth, K):
    for stem in ("own", "merged"):
        assert blocks(f"backbone=resnet{depth}", f"K={K}", f"partition.stem={stem}") == TABLES[depth][K]


@pytest.mark.parametrize(("depth", "L"), [(32, 16), (110, 55), (20, 10)])
def test_the_stem_is_a_module_of_its_own_or_merged_at_the_layer_wise_K(depth, L):
    assert sizes(f"backbone=resnet{depth}", f"K={L}") == [1] * L
    assert blocks(f"backbone=resnet{depth}", f"K={L}", "partition.stem=merged") == [1] * (L - 1)
    assert blocks(f"backbone=resnet{depth}", f"K={L - 1}", "partition.stem=merged") == [1] * (L - 1)


def test_memory_balanced_cuts():
    common = ("backbone=resnet110", "partition.balance=memory")
    assert blocks(*common, "dataset=cifar10", "K=3") == [10, 11, 33]
    assert blocks(*common, "dataset=stl10", "K=3") == [9, 11, 34]
    assert blocks(*common, "dataset=cifar10", "K=2") == [15, 39]
    assert blocks(*common, "dataset=stl10", "K=4") == [7, 8, 12, 27]


LAYERS = {"vgg13": 10, "vgg19": 16, "mobilenetv2": 19, "efficientnetb0": 17, "regnetx_400mf": 23}
LAYERS |= {"resnet34": 17, "resnet101": 34, "resnet152": 51, "resnext101_32x8d": 34}


@pytest.mark.parametrize("name", LAYERS)
def test_number_of_local_layers_of_the_other_backbones(name):
    assert sizes(f"backbone={name}", f"K={LAYERS[name]}") == [1] * LAYERS[name]


@pytest.mark.parametrize(
    ("name", "first"), [("resnet34", 4), ("resnet101", 4), ("resnet152", 9), ("resnext101_32x8d", 6)]
)
def test_imagenet_backbones_are_cut_in_two_as_published(name, first):
    """InfoPro cuts after block 2.0, 2.5 or 2.2."""
    assert blocks(f"backbone={name}", "K=2") == [first, LAYERS[name] - 1 - first]
    assert sizes(f"backbone={name}", f"K={LAYERS[name] - 1}", "partition.stem=merged") == [2] + [1] * (
        LAYERS[name] - 2
    )


def test_unpublished_cuts_for_imagenet_balance_activations():
    """The first cut is InfoPro's. The others weigh a block of stage 3 as half a block of stage 2, as its
    activations are half as large.
    """
    for name, expected in (("resnet101", [4, 7, 10, 12]), ("resnet152", [9, 12, 14, 15])):
        assert blocks(f"backbone={name}", "K=4") == expected
    assert blocks("backbone=resnext101_32x8d", "K=4") == [6, 8, 9, 10]


def test_vgg_has_no_stem():
    assert sizes("backbone=vgg13", "K=10", "partition.stem=merged") == [1] * 10
    assert sizes("backbone=vgg13", "K=4") == [2, 2, 3, 3]


def test_even_split_covers_all_layers_once_and_puts_smaller_groups_first():
    for layers in (10, 16, 28):
        for K in range(1, layers):
            groups = even(layers, K)
            assert [i for group in groups for i in group] == list(range(layers))
            sizes = [len(groups[0]) - 1, *map(len, groups[1:])]
            assert len(groups) == K
            assert sizes == sorted(sizes)
            assert max(sizes) - min(sizes) <= 1
    assert blocks("backbone=resnet56", "K=4") == [6, 7, 7, 7]


def test_every_row_of_published_cuts_has_K_modules_and_a_source():
    rows = constants._rows("cuts")
    assert len(rows) > 20
    for row in rows:
        assert len(row["ends"].split()) == int(row["K"]) - 1
        assert row["source"]
