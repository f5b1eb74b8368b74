"""A training step, an epoch and an evaluation: order of updates, precision, no hidden synchronisation."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from localsl.config import compose
from localsl.network import build_network
from localsl.train.optim import SGD, build
from localsl.train.step import Totals, autocast, counted_step, evaluate, train_epoch, train_step

CPU = torch.device("cpu")


def network_and_optimizer(*overrides):
    cfg = compose(overrides)
    network = build_network(cfg)
    return network, SGD(network.parameters(), cfg.optimizer)


def test_steps_of_bp_equal_those_of_a_hand_written_loop(images_and_targets):
    images, targets = images_and_targets
    network, optimizer = network_and_optimizer("method=bp")
    reference, _ = network_and_optimizer("method=bp")
    reference_optimizer = torch.optim.SGD(reference.parameters(), 0.1, 0.9, weight_decay=1e-4, nesterov=True)
    for _ in range(2):
        (loss,) = train_step(network, optimizer, images, targets)
        reference_optimizer.zero_grad()
        F.cross_entropy(reference(images), targets).backward()
        reference_optimizer.step()
    assert torch.isfinite(loss.total)
    for a, b in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_all_modules_are_updated_after_the_last_local_loss(images_and_targets):
    network, optimizer = network_and_optimizer("K=4")
    before = [p.clone() for p in network.parameters()]
    for _ in train_step(network, optimizer, *images_and_targets):
        assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def epoch_means(network, optimizer, batches):
    totals = Totals(network)
    train_epoch(network, counted_step(network, optimizer, totals), batches, totals)
    return totals.means()


class NoSynchronisation(TorchDispatchMode):
    """Fail on every operation that reads a value from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
        )
        return func(*args, **(kwargs or {}))


def test_the_steps_of_an_epoch_read_nothing_from_the_device(images_and_targets):
    network, optimizer = network_and_optimizer("K=4")
    batches = [images_and_targets] * 2
    totals = Totals(network)
    step = counted_step(network, optimizer, totals)
    train_epoch(network, step, batches, totals)
    with NoSynchronisation():
        train_epoch(network, step, batches, totals)
    with pytest.raises(AssertionError), NoSynchronisation():  # the check itself can fail
        float(images_and_targets[0].sum())


def test_epoch_means_weight_batches_by_their_images(images_and_targets):
    images, targets = images_and_targets
    network, optimizer = network_and_optimizer("K=4")
    optimizer.lr = 0.0
    batches = [(images[:6], targets[:6]), (images[6:], targets[6:])]
    expected = [
        [float(loss.total.detach()) for loss in train_step(network, optimizer, *batch)] for batch in batches
    ]
    means = epoch_means(network, optimizer, batches)
    for module, mean in enumerate(means):
        weighted = (6 * expected[0][module] + 2 * expected[1][module]) / 8
        assert mean.loss == pytest.approx(weighted, rel=1e-6)
        assert mean.accuracy in [100 * n / 8 for n in range(9)]


def test_evaluation_is_exact_and_changes_no_weight_or_statistic(images_and_targets):
    images, targets = images_and_targets
    network, _ = network_and_optimizer("K=4")
    state = {name: value.clone() for name, value in network.state_dict().items()}
    batches = [(images[:5], targets[:5]), (images[5:], targets[5:])]
    found = evaluate(network, batches)
    network.eval()
    logits = network(images)
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, targets).detach()), rel=1e-5)
    assert found.accuracy == 100 * float((logits.argmax(1) == targets).float().mean())
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert found.top5_accuracy is None
    ranked = logits.argsort(1, descending=True)[:, :5]
    correct = sum(int(target) in best.tolist() for best, target in zip(ranked, targets, strict=True))
    assert 0 < correct < 8
    assert evaluate(network, batches, top5=True).top5_accuracy == 100 * correct / 8


def test_bf16_runs_forward_in_bfloat16_and_keeps_weights_in_float32(images_and_targets):
    network, optimizer = network_and_optimizer("K=4")
    dtypes = []
    network.backbone.layers[3].conv1.register_forward_hook(lambda *args: dtypes.append(args[2].dtype))
    losses = list(train_step(network, optimizer, *images_and_targets, autocast("bf16", CPU)))
    assert dtypes == [torch.bfloat16]
    assert not torch.is_autocast_enabled("cpu")
    assert {loss.total.dtype for loss in losses} == {torch.float32}
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_a_module_without_a_loss_has_neither_loss_nor_accuracy(images_and_targets):
    """The released MLAAN's first module is such a module; zeros would look like measured values."""
    network, optimizer = network_and_optimizer("method=mlaan_released", "K=4")
    first, *others = epoch_means(network, optimizer, [images_and_targets])
    assert (first.loss, first.accuracy) == (None, None)
    assert all(mean.loss is not None and mean.accuracy is not None for mean in others)


@pytest.mark.parametrize("per_module", ["false", "true"])
@pytest.mark.parametrize("settings", ["optimizer=sgd", "optimizer=adam"])
def test_a_step_with_a_loss_that_is_not_finite_changes_no_weight(settings, per_module, images_and_targets):
    """With updates per module, the modules before the one whose loss is not finite are updated already."""
    images, targets = images_and_targets
    cfg = compose([settings, "K=4", f"optimizer.per_module={per_module}"])
    network = build_network(cfg)
    optimizer = build(network.parameters(), cfg.optimizer)
    list(train_step(network, optimizer, images, targets))

    def weights(*modules):
        groups = [network.layers_of(network.local_modules[i]) for i in modules]
        return [p.clone() for layers in groups for layer in layers for p in layer.parameters()]

    later = (0, 1, 2, 3) if per_module == "false" else (2, 3)
    before, momenta = weights(*later), [v.clone() for s in optimizer.state_dict() for v in s.values()]
    hook = (
        network.local_modules[2]
        .objective.parts[0]
        .terms[0]
        .network.register_forward_hook(lambda *args: args[2] * float("nan"))
    )
    losses = list(train_step(network, optimizer, images, targets))
    assert [bool(loss.total.isfinite()) for loss in losses] == [True, True, False, True]
    assert all(torch.equal(a, b) for a, b in zip(before, weights(*later), strict=True))
    if per_module == "false":
        after = [v for s in optimizer.state_dict() for v in s.values()]
        assert all(torch.equal(a, b) for a, b in zip(momenta, after, strict=True))
    hook.remove()
    list(train_step(network, optimizer, images, targets))
    assert not any(torch.equal(a, b) for a, b in zip(before, weights(*later), strict=True))
