"""The learning rate of every epoch, and what the optimizer is given."""

import pytest
from torch import nn

from localsl.config import compose
from localsl.network import build_network
from localsl.optim import build_optimizer, learning_rate


@pytest.mark.parametrize(
    ("lr", "epoch", "expected"),
    # As printed by the released code, 400 epochs.
    [
        (0.8, 1, 0.01),
        (0.8, 2, 0.088995),
        (0.8, 5, 0.325877),
        (0.8, 10, 0.719890),
        (0.8, 11, 0.798509),
        (0.8, 100, 0.682843),
        (0.8, 200, 0.4),
        (0.8, 300, 0.117157),
        (0.8, 399, 1.23e-5),
        (0.1, 1, 0.01),
        (0.1, 2, 0.018999),
        (0.1, 5, 0.045985),
        (0.1, 10, 0.090861),
        (0.1, 11, 0.099814),
    ],
)
def test_learning_rate(lr, epoch, expected):
    assert learning_rate(epoch, lr, compose(["schedule=paper"]).schedule) == pytest.approx(
        expected, rel=1e-3, abs=1e-7
    )


@pytest.mark.parametrize("schedule", ["paper", "short", "smoke"])
def test_the_last_epoch_has_learning_rate_zero(schedule):
    settings = compose([f"schedule={schedule}"]).schedule
    assert learning_rate(settings.epochs, 0.8, settings) == 0


def test_without_warmup_it_is_the_cosine():
    settings = compose(["schedule.epochs=4", "schedule.warmup_epochs=0"]).schedule
    assert learning_rate(2, 1.0, settings) == pytest.approx(0.5)
    assert learning_rate(1, 1.0, settings) == pytest.approx(0.853553)


def test_one_group_with_decay_on_every_parameter():
    network = build_network(compose())
    optimizer = build_optimizer(network.parameters(), compose().optimizer)
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(list(network.parameters())) == 356
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 1e-4)
    assert group["dampening"] == 0


def test_frozen_parameters_are_left_out():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    (group,) = build_optimizer(layer.parameters(), compose().optimizer).param_groups
    assert group["params"] == [layer.weight]
