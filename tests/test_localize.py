"""`localize` cuts any network into local modules, which train with ordinary PyTorch code."""

import copy
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import make_dataclass
from typing import Literal, Optional

import pytest
import timm
import torch
import torchvision
from torch import distributed as dist
from torch import nn
from torch.multiprocessing import spawn
from torch.nn import functional as F

import localsl
from localsl.config import compose
from localsl.core.layers import Copied
from localsl.core.updates import per_module
from localsl.execution.processes import Team
from localsl.execution.reduction import begin_average
from localsl.network import build_network
from tests.conftest import ROOT
from tests.helpers.rules import backpropagated, totals_of


class UserNetwork(nn.Module):
    """A network as a user would write one, with functions between the layers in its forward."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), norm(8), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 16, 3, 2, padding=1), norm(16), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), norm(16), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = self.three(self.two(self.one(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class SkipNetwork(UserNetwork):
    """A network that uses its first layer's output again after its second layer."""

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = self.one(x)
        y = self.two(y + x)
        return self.head(F.adaptive_avg_pool2d(self.three(y), 1).flatten(1))


def localized(method=None, model=None, **settings):
    """A model, by default the user's network with fixed weights, and the network that `localize` makes of it."""
    torch.manual_seed(0)
    model = UserNetwork() if model is None else model
    settings = {"cuts": ["one", "two"], "num_classes": 10, "example": torch.zeros(2, 3, 8, 8)} | settings
    return model, localsl.localize(model, method=method or localsl.DGL(), **settings)


def train_step(network, optimizer, images, targets):
    optimizer.zero_grad()
    losses = backpropagated(network, images, targets)
    network.update_ema()
    optimizer.step()
    return totals_of(losses)


METHODS = {
    "BP": localsl.BP(),
    "DGL": localsl.DGL(),
    "PredSim": localsl.PredSim(),
    "InfoPro": localsl.InfoPro(),
    "AugLocal": localsl.AugLocal(depth=2, pyramid=0),
    "MAN": localsl.MAN(),
    "MAN on PredSim": localsl.MAN(base=localsl.PredSim(), bias="channel"),
    "MLAAN": localsl.MLAAN(cascade=2),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_a_users_own_network(name, images_and_targets):
    model, network = localized(METHODS[name], mean=[0.5] * 3, std=[0.5] * 3)
    names = list(model.state_dict())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    logits = model.eval()(images_and_targets[0])
    assert torch.equal(network.eval()(images_and_targets[0]), logits)
    network.train()
    losses = train_step(network, torch.optim.SGD(network.parameters(), 0.1), *images_and_targets)
    assert len(losses) == (1 if name == "BP" else 3)
    assert list(model.state_dict()) == names
    assert all(
        not torch.equal(before[key], value) for key, value in model.state_dict().items() if value.ndim > 1
    )


NETWORKS = {
    "torchvision": ["resnet18", "mobilenet_v3_small", "convnext_tiny", "vit_b_16"],
    "timm": [
        "resnet18",
        "regnety_002",
        "efficientnet_b0",
        "vit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
        "mixer_s32_224",
    ],
}
FAST = ["resnet18", "vit_tiny_patch16_224", "mixer_s32_224"]


@pytest.mark.parametrize(
    ("library", "name"),
    [
        pytest.param(library, name, marks=[] if name in FAST else pytest.mark.slow)
        for library, names in NETWORKS.items()
        for name in names
    ],
)
@pytest.mark.parametrize("method", [localsl.DGL(), localsl.AugLocal(depth=2)], ids=["DGL", "AugLocal"])
def test_losses_in_networks_of_torchvision_and_timm_reach_their_module_alone(library, name, method):
    create = torchvision.models.get_model if library == "torchvision" else timm.create_model
    model, size = create(name, num_classes=10), 64 if name == "resnet18" else 224
    images, targets = torch.randn(2, 3, size, size), torch.tensor([1, 2])
    network = localsl.localize(model, method=method, K=4, num_classes=10, example=images)
    assert torch.equal(network.eval()(images), model(images))
    network.train()
    classifier = {id(p) for p in network.backbone.classifier.parameters()}
    for loss in network.local_losses(images, targets):
        network.zero_grad(set_to_none=True)
        loss.total.backward()
        assert bool(loss.total.isfinite())
        touched = {id(p) for p in network.parameters() if p.grad is not None}
        module = network.local_modules[loss.module]
        own = {id(p) for layer in network.layers_of(module) for p in layer.parameters()}
        aux = {id(p) for p in network.auxiliary[loss.module].parameters() if p.requires_grad}
        assert touched == own | aux | (classifier if loss.module == 3 else set())
    layers = [layer for module in network.local_modules for layer in network.layers_of(module)]
    of_layers = {id(p) for layer in layers for p in layer.parameters()}
    assert of_layers | classifier == {id(p) for p in model.parameters()}


class InPlaceBlock(nn.Module):
    """A block without normalisation that changes its input."""

    def __init__(self, act):
        super().__init__()
        self.act, self.one, self.two = act, nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return x + self.two(F.relu(self.one(self.act(x))))


@pytest.mark.parametrize(
    "act",
    [
        nn.LeakyReLU(0.2, inplace=True),
        nn.Sequential(nn.Identity(), nn.LeakyReLU(0.2, inplace=True)),
    ],
    ids=["directly", "through a view"],
)
@pytest.mark.parametrize(
    "method",
    [localsl.DGL(), localsl.AugLocal(depth=2), localsl.MAN(), localsl.MLAAN()],
    ids=lambda method: type(method).__name__,
)
def test_layers_that_change_their_input_leave_the_other_losses_unchanged(act, method):
    blocks = [InPlaceBlock(copy.deepcopy(act)) for _ in range(4)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *blocks, *head)
    _, network = localized(method, model, cuts=None, K=5)
    images, targets = torch.randn(4, 3, 8, 8), torch.arange(4)
    losses = backpropagated(network, images, targets)
    assert torch.allclose(losses[-1].total, F.cross_entropy(model(images), targets), rtol=1e-6)


@pytest.mark.parametrize("inplace", [True, False])
def test_features_are_copied_only_before_a_layer_that_changes_them(inplace):
    """Dropout in place does so in training alone; an activation in place after a convolution never does."""
    one, two, three = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    model = nn.Sequential(one, nn.Dropout2d(0.5, inplace), two, nn.ReLU(inplace=True), three, *head)
    _, network = localized(model=model, cuts=["0", "3"])
    copied = [isinstance(next(layer.children()), Copied) for layer in network.backbone.layers]
    assert copied == [False, inplace, False, False]


def test_a_trace_lists_where_a_network_can_be_cut():
    trace = localsl.trace(UserNetwork(), torch.zeros(2, 3, 8, 8))
    assert trace.names == ["relu", "one", "two"]
    assert [cut.shape for cut in trace] == [(8, 8, 8), (8, 8, 8), (16, 4, 4)]
    assert trace.cuts[1].parameters == 8 * 8 * 9 + 8 + 16
    assert trace.cuts[1].flops == 2 * 8 * 8 * 9 * 64
    assert "two" in str(trace)
    resnet = localsl.trace(torchvision.models.resnet18(), torch.zeros(2, 3, 64, 64))
    blocks = [name for stage in (1, 2, 3, 4) for name in (f"layer{stage}.0", f"layer{stage}")]
    assert resnet.names == ["maxpool", *blocks[:-1]]


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        (
            SkipNetwork(),
            {"cuts": ["one"]},
            r"cannot cut after 'one': 'add' in its forward also takes the output of 'relu'",
        ),
        (UserNetwork(), {"cuts": ["four"]}, "UserNetwork has no module of this name"),
        (UserNetwork(), {"cuts": ["tow"]}, "did you mean 'two'"),
        (UserNetwork(), {"cuts": ["head"]}, "the classifier begins there"),
        (UserNetwork(), {"cuts": ["two", "one"]}, "in the order of the forward pass"),
        (UserNetwork(), {"cuts": ["one"], "K": 2}, "either cuts"),
        (UserNetwork(), {"cuts": None, "K": 9}, "K must be 1 to 4"),
        (UserNetwork(), {"example": torch.zeros(1, 3, 8, 8)}, "two or more"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), {"K": 2, "cuts": None}, "fewer than two layers"),
        (
            torchvision.models.resnet18(num_classes=10),
            {"cuts": ["layer1.0.conv1"]},
            "also takes the input of 'layer1.0'",
        ),
        (
            timm.create_model("hrnet_w18_small"),
            {"cuts": None, "K": 2, "example": torch.zeros(2, 3, 64, 64)},
            "does not return one tensor",
        ),
        (
            timm.create_model("vit_tiny_patch16_224"),
            {"cuts": ["blocks.0"]},
            "cannot take the example's features",
        ),
    ],
)
def test_cuts_that_are_not_possible_are_refused_with_the_reason(model, settings, words):
    with pytest.raises(ValueError, match=words):
        localized(model=model, **settings)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (localsl.InfoPro(), "give mean= and std="),
        (localsl.AugLocal(depth=1), "depth"),
        (localsl.MAN(base=localsl.AugLocal()), "the base must be"),
        (localsl.MLAAN(cascade=4), "cannot be longer than the 3 modules"),
    ],
)
def test_settings_that_a_method_does_not_allow_are_refused(method, words):
    with pytest.raises(ValueError, match=words):
        localized(method)


class SharedActivations(nn.Module):
    """A network that calls one ReLU and one pooling after several convolutions."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1)
        self.relu, self.pool, self.head = nn.ReLU(), nn.MaxPool2d(1), nn.Linear(8, 10)

    def forward(self, x):
        x = self.pool(self.relu(self.one(x)))
        x = self.pool(self.relu(self.two(x)))
        return self.head(self.relu(self.three(x)).mean((2, 3)))


def test_a_trace_names_later_calls_of_a_module_by_number():
    assert localsl.trace(SharedActivations(), torch.zeros(2, 3, 8, 8)).names == ["relu", "relu_1"]


@pytest.mark.parametrize(
    ("cut", "trained"), [("relu", "one"), ("pool", "one"), ("two", "one two"), ("relu_1", "one two")]
)
def test_a_cut_after_a_module_that_is_called_again_is_after_that_call(cut, trained):
    model, network = localized(model=SharedActivations(), cuts=[cut])
    images = torch.randn(2, 3, 8, 8)
    next(network.local_losses(images, torch.tensor([0, 1]))).total.backward()
    assert [n for n in ("one", "two", "three") if getattr(model, n).weight.grad is not None] == trained.split()
    assert torch.equal(network.eval()(images), model(images))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_auxiliary_networks_have_the_models_dtype(dtype):
    _, network = localized(model=UserNetwork().to(dtype), example=torch.zeros(2, 3, 8, 8, dtype=dtype))
    losses = list(network.local_losses(torch.randn(2, 3, 8, 8, dtype=dtype), torch.tensor([0, 1])))
    assert all(torch.isfinite(loss.total) for loss in losses)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_classes": 5}, r"returns outputs of shape \(10,\), but num_classes=5"),
        ({"method": localsl.DGL}, r"such as localsl.DGL\(\)"),
        ({"method": "dgl"}, "not 'dgl'"),
        ({"scale": "large"}, "one of cifar, imagenet"),
        ({"method": localsl.MAN(base=localsl.BP())}, "the base of MAN must be"),
        ({"cuts": []}, "at least one module"),
        ({"cuts": "one"}, r"such as cuts=\['one'\]"),
        ({"cuts": None, "K": "3"}, "K must be a whole number, not '3'"),
        ({"cuts": None, "K": 3.0}, "K must be a whole number, not 3.0"),
        ({"cuts": None}, "give either"),
        ({"method": localsl.AugLocal(depth=2.5)}, r"depth=2.5: must be int \| None"),
        ({"method": localsl.PredSim(lambda_similarity=1.0)}, r"must be list\[float\]"),
        ({"method": localsl.DGL(head="none")}, "use head=dgl"),
        ({"method": localsl.MAN(base=localsl.DGL(head="none"))}, "use base=dgl"),
        ({"mean": [0.5], "std": [0.5]}, "one number per channel, 3, not 1"),
        ({"method": localsl.PredSim(), "example": torch.zeros(2, 3, 8, 12)}, "square images"),
    ],
)
def test_contradictory_arguments_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        localized(**settings)


def test_a_rule_of_ones_own_may_have_fields_of_any_type():
    fields = [
        ("names", Optional[list[str]], None),  # noqa: UP045  another class than list[str] | None
        ("mode", Literal["a", "b"], "a"),
        ("of", Sequence[int], (1,)),
    ]
    localized(make_dataclass("Mine", fields, bases=(localsl.DGL,), kw_only=True)())
    localized(make_dataclass("Mine", [("of", "Unknown", 1)], bases=(localsl.DGL,), kw_only=True)())


def test_backpropagation_needs_no_cuts():
    _, network = localized(localsl.BP(), cuts=None)
    assert len(network.local_modules) == 1


def test_the_normalisation_may_be_tensors():
    mean, std = torch.full((3,), 0.25), torch.full((3,), 0.5)
    _, network = localized(localsl.InfoPro(), mean=mean, std=std)
    assert (network._mean.flatten().tolist(), network._std.flatten().tolist()) == ([0.25] * 3, [0.5] * 3)


def test_rectangular_images_need_no_decoder_and_no_similarities():
    _, network = localized(example=torch.zeros(2, 3, 8, 12))
    assert len(list(network.local_losses(torch.randn(2, 3, 8, 12), torch.tensor([0, 1])))) == 3


def test_k_is_the_number_of_modules_under_auglocal_too():
    _, network = localized(localsl.AugLocal(depth=2), cuts=None, K=4)  # one layer per module
    assert len(network.local_modules) == 4


def test_a_trace_counts_the_operations_of_transformer_layers():
    layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(3)]
    model = nn.Sequential(nn.Flatten(2), *layers, nn.Flatten(1), nn.Linear(24, 10)).train()
    cuts = list(localsl.trace(model, torch.zeros(2, 3, 2, 4)))
    assert cuts
    assert all(cut.flops > 0 for cut in cuts)
    assert model.training


def test_infopros_decoder_refuses_tokens():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, depth=3)
    with pytest.raises(ValueError, match="are tokens"):
        localized(localsl.InfoPro(), model, cuts=["blocks.0"], example=torch.zeros(2, 3, 224, 224))


@pytest.mark.parametrize(
    "method", [localsl.AugLocal(depth=2), localsl.MAN(bias="channel")], ids=["AugLocal", "MAN"]
)
def test_networks_of_vectors_can_be_cut(method):
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))
    _, network = localized(method, model, cuts=["1"], example=torch.zeros(2, 20))
    losses = train_step(
        network, torch.optim.SGD(network.parameters(), 0.1), torch.randn(4, 20), torch.arange(4)
    )
    assert len(losses) == 2


@pytest.mark.parametrize("bias", ["channel", "none"])
def test_an_average_of_a_layer_without_parameters_is_not_moved(bias):
    layers = [
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
    ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    _, network = localized(localsl.MAN(bias=bias), model, cuts=["1", "4"])
    backpropagated(network, torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))
    assert [layer.follows for layer in network.following()] == [False, False]
    network.update_ema()
    assert sum(len(update.parameters) for update in per_module(network).values()) == len(
        list(network.parameters())
    )


def from_both_entry_points(overrides, method):
    """ResNet-20 in ten modules under a rule, from the command line and from `localize`, with equal backbones."""
    reference = build_network(compose([*overrides, "K=10", "backbone=resnet20"]))
    layers, classifier = reference.backbone.layers, reference.backbone.classifier
    model = nn.Sequential(*copy.deepcopy(layers), copy.deepcopy(classifier))
    cuts = [str(i) for i in range(9)]
    network = localsl.localize(
        model, method=method, cuts=cuts, num_classes=10, example=torch.zeros(2, 3, 8, 8), scale="cifar"
    )
    return reference, network


@pytest.mark.parametrize(
    ("name", "method"), [("dgl", localsl.DGL()), ("man", localsl.MAN()), ("mlaan", localsl.MLAAN())]
)
def test_losses_equal_those_of_the_command_line_bit_for_bit(name, method, images_and_targets):
    reference, network = from_both_entry_points([f"method={name}"], method)
    weights = reference.auxiliary.state_dict().values()
    network.auxiliary.load_state_dict(dict(zip(network.auxiliary.state_dict(), weights, strict=True)))
    expected = totals_of(reference.local_losses(*images_and_targets))
    assert totals_of(network.local_losses(*images_and_targets)) == expected


def test_auglocal_selects_the_layers_that_it_selects_on_the_command_line():
    overrides = ["method=auglocal", "aux.depth=3", "partition.join_last=false"]
    networks = from_both_entry_points(overrides, localsl.AugLocal(depth=3))
    expected, found = ([a["ce"].selected for a in network.auxiliary if len(a)] for network in networks)
    assert found == expected


def test_networks_train_with_adamw_and_clipped_gradients(images_and_targets):
    _, network = localized(localsl.AugLocal(depth=2, pyramid=0))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    totals = []
    for _ in range(15):
        optimizer.zero_grad()
        totals.append(totals_of(backpropagated(network, *images_and_targets)))
        assert float(nn.utils.clip_grad_norm_(network.parameters(), 1.0)) > 0
        optimizer.step()
    assert all(last < first for last, first in zip(totals[-1], totals[0], strict=True))


@pytest.mark.parametrize("scaled", [False, True])
def test_networks_train_under_autocast_with_and_without_a_scaler(scaled, images_and_targets):
    model, network = localized(localsl.MAN())
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    before = model.stem.weight.clone()
    losses = network.local_losses(*images_and_targets)
    while True:
        with torch.autocast("cpu", torch.bfloat16):
            loss = next(losses, None)
        if loss is None:
            break
        scaler.scale(loss.total).backward()
    network.update_ema()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(before, model.stem.weight)
    assert bool(model.stem.weight.isfinite().all())


def test_a_deep_copy_trains_independently(images_and_targets):
    for model in (
        UserNetwork(),
        timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=10),
    ):
        size = 8 if isinstance(model, UserNetwork) else 32
        images = torch.randn(4, 3, size, size)
        cuts = ["one", "two"] if isinstance(model, UserNetwork) else ["blocks.0", "blocks.1"]
        _, network = localized(localsl.MAN(), model, cuts=cuts, example=images)
        copied = copy.deepcopy(network)
        before = copy.deepcopy(network.state_dict())
        losses = train_step(copied, torch.optim.SGD(copied.parameters(), 0.1), images, torch.arange(4))
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        name, value = next(iter(model.state_dict().items()))
        assert not torch.equal(copied.backbone.model.state_dict()[name], value)
        assert losses == train_step(
            network, torch.optim.SGD(network.parameters(), 0.1), images, torch.arange(4)
        )
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), copied.parameters(), strict=True))


def test_trained_weights_load_into_the_plain_model_and_into_a_localized_one(images_and_targets):
    model, network = localized()
    train_step(network, torch.optim.SGD(network.parameters(), 0.1), *images_and_targets)
    torch.save(model.state_dict(), "model.pt")
    plain = UserNetwork()
    plain.load_state_dict(torch.load("model.pt"))
    assert torch.equal(plain.eval()(images_and_targets[0]), network.eval()(images_and_targets[0]))
    other = localized()[1]
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.eval()(images_and_targets[0]), network(images_and_targets[0]))


def test_parameters_between_the_modules_follow_a_change_of_dtype():
    """A positional embedding belongs to no layer: the network's own forward adds it."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=10)
    images = torch.randn(4, 3, 32, 32)
    _, network = localized(model=model, cuts=["blocks.0"], example=images)
    network.to(torch.float64)
    losses = train_step(network, torch.optim.SGD(network.parameters(), 0.1), images.double(), torch.arange(4))
    assert all(math.isfinite(loss) for loss in losses)
    assert model.pos_embed.grad is not None
    assert model.pos_embed.dtype is torch.float64


def test_a_frozen_stem_is_not_trained(images_and_targets):
    model = UserNetwork()
    model.stem.requires_grad_(False)
    model, network = localized(localsl.MAN(), model)
    before = model.stem.weight.clone()
    trained = [p for p in network.parameters() if p.requires_grad]
    train_step(network, torch.optim.SGD(trained, 0.1), *images_and_targets)
    assert torch.equal(before, model.stem.weight)
    assert model.stem.weight.grad is None
    assert model.one[0].weight.grad is not None


def test_gradients_accumulate_over_batches(images_and_targets):
    images, targets = images_and_targets
    by_batch, by_halves = (
        localized(model=UserNetwork(norm=lambda channels: nn.GroupNorm(2, channels)))[1] for _ in range(2)
    )
    by_halves.load_state_dict(by_batch.state_dict())
    for network in (by_batch, by_halves):  # statistics of a batch would differ from those of its halves
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.eval()
    backpropagated(by_batch, images, targets)
    for half in (slice(0, 4), slice(4, 8)):
        for loss in by_halves.local_losses(images[half], targets[half]):
            (loss.total / 2).backward()
    for expected, found in zip(by_batch.parameters(), by_halves.parameters(), strict=True):
        assert torch.allclose(expected.grad, found.grad, rtol=1e-3, atol=1e-6)


class ManualOptimisation:
    """The parts of a Lightning module with `automatic_optimization = False` that a training step uses."""

    def __init__(self, network):
        self.network, self.optimizer = network, torch.optim.SGD(network.parameters(), 0.1)
        self.logged = {}

    def optimizers(self):
        return self.optimizer

    def manual_backward(self, loss):
        loss.backward()

    def log(self, name, value):
        self.logged[name] = float(value)

    def training_step(self, batch, _):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        for loss in self.network.local_losses(*batch):
            self.manual_backward(loss.total)
            self.log(f"module_{loss.module}_loss", loss.total.detach())
        self.network.update_ema()
        optimizer.step()


def test_networks_train_in_lightnings_manual_optimisation(images_and_targets):
    module = ManualOptimisation(localized(localsl.MLAAN(cascade=2))[1])
    module.training_step(images_and_targets, 0)
    assert set(module.logged) == {"module_0_loss", "module_1_loss", "module_2_loss"}


def test_the_seed_decides_the_auxiliary_weights_and_the_random_state_is_kept():
    model, before = UserNetwork(), torch.get_rng_state()
    example = torch.zeros(2, 3, 8, 8)

    def classifier(seed):
        network = localsl.localize(model, method=localsl.DGL(), K=2, num_classes=10, example=example, seed=seed)
        return network.auxiliary[0]["ce"][-1].weight

    first, same, other = map(classifier, (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_importing_the_library_imports_none_of_the_experiments_packages():
    code = "import localsl, sys; print([m for m in sys.argv[1:] if m in sys.modules])"
    absent = ["hydra", "omegaconf", "wandb", "pandas", "matplotlib", "sklearn", "timm", "localsl.config"]
    done = subprocess.run(
        [sys.executable, "-c", code, *absent], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def gradients_of(network, images, targets):
    for loss in network.local_losses(images, targets):
        loss.total.backward()
    return [p for p in network.parameters() if p.grad is not None]


def double_batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64)
    model = UserNetwork().double()
    torch.nn.init.normal_(model.stem.weight, generator=generator)
    return images, torch.arange(8), localized(model=model, example=images[:2])[1]


def train_on_one_half(rank, folder):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    images, targets, network = double_batch()
    trained = gradients_of(network, images.split(4)[rank], targets.split(4)[rank])
    begin_average(Team(rank, 2), trained, torch.zeros(()))()
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    torch.save(list(network.parameters()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.xdist_group("processes")
def test_two_processes_train_as_one_by_averaging_gradients(tmp_path):
    spawn(train_on_one_half, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    torch.manual_seed(0)
    images, targets, network = double_batch()
    for half in zip(images.split(4), targets.split(4), strict=True):
        trained = gradients_of(network, *half)
    for parameter in trained:
        parameter.grad /= 2
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    assert len(trained) > 10
    for one, other, alone in zip(first, second, network.parameters(), strict=True):
        assert torch.equal(one, other)
        assert torch.allclose(one, alone, rtol=0, atol=1e-12)
