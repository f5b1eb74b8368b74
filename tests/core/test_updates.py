"""optimizer.per_module gives the same bits as the single update and keeps fewer gradients alive."""

import pytest
import torch

from localsl.config import compose
from localsl.core.updates import per_module
from localsl.measure.footprint import footprint
from localsl.network import build_network
from localsl.train.optim import build
from localsl.train.step import train_step
from tests.helpers.rules import RULES, overrides_of


def state_after_three_steps(overrides, images, targets):
    torch.manual_seed(0)  # for dropout
    cfg = compose([*overrides, "backbone=resnet20", "K=4"])
    network = build_network(cfg)
    optimizer = build(network.parameters(), cfg.optimizer)
    for _ in range(3):
        for _loss in train_step(network, optimizer, images, targets):
            pass
    momenta = [value for state in optimizer.state_dict() for value in state.values()]
    return [*network.state_dict().values(), *momenta]


OTHER_FORMS = [
    "man ema.gradient=true",
    "man ema.source=copy",
    "mlaan ema.gradient=true ema.moves=all",
    "mlaan method.leap_on=both",
]


@pytest.mark.parametrize("rule", [*RULES, *OTHER_FORMS])
def test_updates_per_module_equal_the_single_update_bit_for_bit(rule, images_and_targets):
    single = state_after_three_steps(overrides_of(rule), *images_and_targets)
    separate = state_after_three_steps([*overrides_of(rule), "optimizer.per_module=true"], *images_and_targets)
    assert all(torch.equal(a, b) for a, b in zip(single, separate, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_every_parameter_is_updated_once(rule):
    network = build_network(compose([*overrides_of(rule), "backbone=resnet20", "K=10"]))
    updated = [id(p) for update in per_module(network).values() for p in update.parameters]
    assert sorted(updated) == sorted(map(id, network.parameters()))
    layers = [layer for update in per_module(network).values() for layer in update.momentum_layers]
    assert len(layers) == len(set(layers))


def test_a_module_of_cascades_is_updated_after_the_last_loss_that_reaches_it():
    """With cascades of three modules, the losses of the next two modules reach a module too."""
    network = build_network(compose(["method=mlm", "method.cascade=3", "K=16"]))
    due = {id(p): module for module, update in per_module(network).items() for p in update.parameters}
    for module in network.local_modules:
        (layer,) = network.layers_of(module)
        last = min(module.index + 2, 15)
        assert {due[id(p)] for p in layer.parameters()} == {last}


def test_updates_per_module_free_gradients_within_the_step():
    overrides = [
        "method=dgl",
        "aux_net=dgl_big",
        "dataset=cifar10",
        "batch_size=16",
        "backbone=resnet20",
        "K=10",
    ]
    single = footprint(compose(overrides))
    separate = footprint(compose([*overrides, "optimizer.per_module=true"]))
    assert separate.peak < single.peak - single.gradients / 2
