"""A network's local losses, gradient isolation, evaluation and module table."""

import pytest
import torch

from localsl.config import compose
from localsl.network import build_network, count_parameters
from tests.helpers import golden
from tests.helpers.rules import backpropagated, filled, squared_gradients, totals_of

RULES = [("bp", 16), ("dgl", 16), ("dgl", 4), ("dgl", 1)]


@pytest.mark.parametrize(
    ("method", "expected", "gradient"),
    [
        ("bp", [golden.OUTPUT], golden.BP_GRADIENT),
        ("dgl", [*golden.DGL, golden.OUTPUT], golden.DGL_GRADIENT),
    ],
)
def test_losses_and_gradients_match_the_published_implementations(method, expected, gradient):
    network = filled(f"method={method}")
    assert totals_of(backpropagated(network, *golden.batch())) == pytest.approx(expected, rel=1e-4)
    assert squared_gradients(network) == pytest.approx(gradient, rel=1e-2)


@pytest.mark.parametrize(("method", "K"), RULES)
def test_a_loss_reaches_its_module_and_nothing_else(method, K, images_and_targets):
    network = build_network(compose([f"method={method}", f"K={K}"]))
    modules = network.local_modules
    for loss in network.local_losses(*images_and_targets):
        network.zero_grad(set_to_none=True)
        loss.total.backward()
        module = modules[loss.module]
        last = loss.module == len(modules) - 1
        own = [network.backbone.layers[i] for i in module.layers]
        own += [network.auxiliary[loss.module], *([network.backbone.classifier] if last else [])]
        expected = {id(p) for part in own for p in part.parameters()}
        touched = {id(p) for p in network.parameters() if p.grad is not None}
        assert touched == expected
        assert all(bool(p.grad.abs().sum() > 0) for p in network.parameters() if p.grad is not None)


def test_a_local_loss_has_its_terms_weights_and_correct_predictions(images_and_targets):
    network = build_network(compose(["K=4"]))
    images, targets = images_and_targets
    modules = []
    for loss in network.local_losses(images, targets):
        loss.total.backward()
        modules.append(loss.module)
        assert loss.total.ndim == 0
        assert loss.weights == {"ce": 1.0}
        assert torch.equal(loss.total, loss.terms["ce"])
        assert loss.correct is not None
        assert not loss.correct.requires_grad
        assert 0 <= int(loss.correct) <= len(targets)
    assert modules == [0, 1, 2, 3]


def test_evaluation_runs_the_plain_backbone(images_and_targets):
    network = build_network(compose()).eval()
    for auxiliary in network.auxiliary:
        auxiliary.register_forward_pre_hook(lambda *_: pytest.fail("an auxiliary network ran"))
    images, _ = images_and_targets
    x = images
    for layer in network.backbone.layers:
        x = layer(x)
    assert torch.equal(network(images), network.backbone.classifier(x))


def test_initial_weights_depend_on_the_configuration_alone():
    before = torch.get_rng_state()
    one, two = build_network(compose()), build_network(compose())
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    other = build_network(compose(["seed=7"]))
    assert not torch.equal(one.backbone.layers[0][0].weight, other.backbone.layers[0][0].weight)


def test_rules_and_partitions_start_from_the_same_backbone():
    reference = build_network(compose(["method=bp"])).backbone.state_dict()
    for overrides in (["K=16"], ["K=4"], ["method=bp", "K=2"]):
        backbone = build_network(compose(overrides)).backbone.state_dict()
        assert all(torch.equal(reference[name], backbone[name]) for name in reference)


def test_modules_table_accounts_for_every_parameter():
    network = build_network(compose(["dataset=cifar10"]))
    rows = network.modules_table()
    assert [row["module"] for row in rows] == list(range(16))
    assert [row["layers"] for row in rows[:2]] == ["stem", "1.0"]
    assert sum(row["parameters"] for row in rows) == 466_906
    assert sum(row["parameters"] + row["aux_parameters"] for row in rows) == 1_305_200
    assert count_parameters(network) == 1_305_200
    assert [row["aux"] for row in rows] == ["DGLHead"] * 15 + ["-"]


def test_dgl_on_resnet110_has_as_many_parameters_as_published():
    network = build_network(compose(["dataset=cifar10", "backbone=resnet110", "K=55"]))
    assert count_parameters(network) == 5_105_750


@pytest.mark.parametrize("size", [8, 13, 32, 96])
def test_heads_take_any_image_size(size):
    network = build_network(compose([f"dataset.image_size={size}", "K=3"]))
    assert len(backpropagated(network, torch.randn(2, 3, size, size), torch.tensor([0, 1]))) == 3
