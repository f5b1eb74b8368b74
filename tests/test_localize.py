"""The library's door: any network cut into local modules, and used as its owner is used to."""

import copy
import subprocess
import sys

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import localsl
from localsl.config import compose
from localsl.network import build_network
from tests.conftest import ROOT


class Own(nn.Module):
    """A network as a user would write one: layers in its forward, a flattening between them."""

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


class Skip(Own):
    """Its first layer's output is used again after its second."""

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = self.one(x)
        y = self.two(y + x)
        return self.head(F.adaptive_avg_pool2d(self.three(y), 1).flatten(1))


def localized(method=None, model=None, **settings):
    torch.manual_seed(0)
    model = Own() if model is None else model
    settings = {"cuts": ["one", "two"], "num_classes": 10, "example": torch.zeros(2, 3, 8, 8)} | settings
    return model, localsl.localize(model, method=method or localsl.DGL(), **settings)


def step(network, optimizer, images, targets):
    optimizer.zero_grad()
    losses = []
    for loss in network.local_losses(images, targets):
        loss.total.backward()
        losses.append(float(loss.total.detach()))
    network.update_ema()
    optimizer.step()
    return losses


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
    losses = step(network, torch.optim.SGD(network.parameters(), 0.1), *images_and_targets)
    assert len(losses) == (1 if name == "BP" else 3)
    assert list(model.state_dict()) == names
    assert all(
        not torch.equal(before[key], value) for key, value in model.state_dict().items() if value.ndim > 1
    )


# Of torchvision and timm: name and cuts of an even split into four.
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


def made(library, name):
    make = torchvision.models.get_model if library == "torchvision" else timm.create_model
    return make(name, num_classes=10)


def isolated_step(library, name, method, size):
    """One step, in which every module's loss reaches that module and its auxiliary networks alone."""
    model = made(library, name)
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
    of_pieces = {
        id(p) for m in network.local_modules for layer in network.layers_of(m) for p in layer.parameters()
    }
    assert of_pieces | classifier == {id(p) for p in model.parameters()}


@pytest.mark.parametrize(
    ("library", "name"),
    [
        pytest.param(library, name, marks=[] if name in FAST else pytest.mark.slow)
        for library, names in NETWORKS.items()
        for name in names
    ],
)
@pytest.mark.parametrize("method", [localsl.DGL(), localsl.AugLocal(depth=2)], ids=["DGL", "AugLocal"])
def test_networks_of_torchvision_and_timm(library, name, method):
    isolated_step(library, name, method, 64 if name == "resnet18" else 224)


def test_a_trace_lists_where_a_network_can_be_cut():
    trace = localsl.trace(Own(), torch.zeros(2, 3, 8, 8))
    assert trace.names == ["relu", "one", "two"]
    assert [cut.shape for cut in trace] == [(8, 8, 8), (8, 8, 8), (16, 4, 4)]
    assert trace.cuts[1].parameters == 8 * 8 * 9 + 8 + 16
    assert trace.cuts[1].flops == 2 * 8 * 8 * 9 * 64
    assert "two" in str(trace)
    resnet = localsl.trace(torchvision.models.resnet18(), torch.zeros(2, 3, 64, 64))
    blocks = [name for stage in (1, 2, 3, 4) for name in (f"layer{stage}.0", f"layer{stage}")]
    assert resnet.names == ["maxpool", *blocks[:-1]] or resnet.names[1:] == blocks[:-1]


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        (
            Skip(),
            {"cuts": ["one"]},
            r"cannot cut after 'one': 'add' in its forward also takes the output of 'relu'",
        ),
        (Own(), {"cuts": ["four"]}, "Own has no module of this name"),
        (Own(), {"cuts": ["tow"]}, "did you mean 'two'"),
        (Own(), {"cuts": ["head"]}, "the classifier begins there"),
        (Own(), {"cuts": ["two", "one"]}, "in the order of the forward pass"),
        (Own(), {"cuts": ["one"], "K": 2}, "either cuts"),
        (Own(), {"cuts": None, "K": 9}, "K must be 1 to 4"),
        (Own(), {"example": torch.zeros(1, 3, 8, 8)}, "two or more"),
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
def test_what_cannot_be_cut_is_refused_with_the_reason(model, settings, words):
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
def test_what_a_method_cannot_work_with_is_refused(method, words):
    with pytest.raises(ValueError, match=words):
        localized(method)


def test_infopros_decoder_refuses_tokens():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, depth=3)
    with pytest.raises(ValueError, match="are tokens"):
        localized(localsl.InfoPro(), model, cuts=["blocks.0"], example=torch.zeros(2, 3, 224, 224))


def test_vectors_can_be_cut_too():
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))
    _, network = localized(localsl.AugLocal(depth=2), model, cuts=["1"], example=torch.zeros(2, 20))
    losses = step(network, torch.optim.SGD(network.parameters(), 0.1), torch.randn(4, 20), torch.arange(4))
    assert len(losses) == 2


def test_the_losses_are_those_of_the_command_line_bit_for_bit(images_and_targets):
    """The same network and rule through both doors, with the same weights."""
    for typed, method in (
        ("method=dgl", localsl.DGL()),
        ("method=auglocal aux.depth=3", localsl.AugLocal(depth=3)),
        ("method=man", localsl.MAN()),
        ("method=mlaan", localsl.MLAAN()),
    ):
        reference = build_network(
            compose(
                [*typed.split(), "K=10", "backbone=resnet20", "partition.join_last=false"]
                if "aug" in typed
                else [*typed.split(), "K=10", "backbone=resnet20"]
            )
        )
        chain = nn.Sequential(
            *copy.deepcopy(reference.backbone.layers), copy.deepcopy(reference.backbone.classifier)
        )
        cuts = [str(i) for i in range(9)]
        network = localsl.localize(
            chain, method=method, cuts=cuts, num_classes=10, example=torch.zeros(2, 3, 8, 8), scale="cifar"
        )
        if "aug" not in typed:  # its copies are of other classes here, so that their weights have other names
            ours = dict(
                zip(network.auxiliary.state_dict(), reference.auxiliary.state_dict().values(), strict=True)
            )
            network.auxiliary.load_state_dict(ours)
            expected = [float(loss.total.detach()) for loss in reference.local_losses(*images_and_targets)]
            found = [float(loss.total.detach()) for loss in network.local_losses(*images_and_targets)]
            assert found == expected
        else:
            assert [a["ce"].selected for a in network.auxiliary if len(a)] == [
                a["ce"].selected for a in reference.auxiliary if len(a)
            ]


def test_adamw_and_clipped_gradients(images_and_targets):
    _, network = localized(localsl.AugLocal(depth=2, pyramid=0))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    first = None
    for _ in range(15):
        optimizer.zero_grad()
        losses = []
        for loss in network.local_losses(*images_and_targets):
            loss.total.backward()
            losses.append(float(loss.total.detach()))
        assert float(nn.utils.clip_grad_norm_(network.parameters(), 1.0)) > 0
        optimizer.step()
        first = first or losses
    assert all(last < begun for last, begun in zip(losses, first, strict=True))


@pytest.mark.parametrize("scaled", [False, True])
def test_autocast_with_and_without_a_scaler(scaled, images_and_targets):
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


def test_a_deep_copy_trains_on_its_own(images_and_targets):
    for model in (Own(), timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=10)):
        size = 8 if isinstance(model, Own) else 32
        images = torch.randn(4, 3, size, size)
        cuts = ["one", "two"] if isinstance(model, Own) else ["blocks.0", "blocks.1"]
        _, network = localized(localsl.MAN(), model, cuts=cuts, example=images)
        twin = copy.deepcopy(network)
        before = copy.deepcopy(network.state_dict())
        losses = step(twin, torch.optim.SGD(twin.parameters(), 0.1), images, torch.arange(4))
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert not torch.equal(
            twin.backbone.model.state_dict()[next(iter(model.state_dict()))],
            next(iter(model.state_dict().values())),
        )
        assert losses == step(network, torch.optim.SGD(network.parameters(), 0.1), images, torch.arange(4))
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))


def test_the_bare_model_takes_the_weights(images_and_targets, tmp_path):
    model, network = localized()
    step(network, torch.optim.SGD(network.parameters(), 0.1), *images_and_targets)
    torch.save(model.state_dict(), "model.pt")
    bare = Own()
    bare.load_state_dict(torch.load("model.pt"))
    assert torch.equal(bare.eval()(images_and_targets[0]), network.eval()(images_and_targets[0]))
    again = localized()[1]
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(images_and_targets[0]), network(images_and_targets[0]))


def test_moving_the_network_moves_what_stands_between_its_modules():
    """A positional embedding, which a network's own forward adds, is replaced when it is moved."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=10)
    images = torch.randn(4, 3, 32, 32)
    _, network = localized(model=model, cuts=["blocks.0"], example=images)
    network.to(torch.float64)
    losses = step(network, torch.optim.SGD(network.parameters(), 0.1), images.double(), torch.arange(4))
    assert all(loss == loss for loss in losses)
    assert model.pos_embed.grad is not None
    assert model.pos_embed.dtype is torch.float64


def test_a_frozen_pretrained_stem(images_and_targets):
    model = Own()
    model.stem.requires_grad_(False)
    model, network = localized(localsl.MAN(), model)
    before = model.stem.weight.clone()
    trained = [p for p in network.parameters() if p.requires_grad]
    step(network, torch.optim.SGD(trained, 0.1), *images_and_targets)
    assert torch.equal(before, model.stem.weight)
    assert model.stem.weight.grad is None
    assert model.one[0].weight.grad is not None


def test_gradients_accumulate_over_batches(images_and_targets):
    images, targets = images_and_targets
    nets = [
        localized(model=Own(norm=nn.Identity if False else lambda c: nn.GroupNorm(2, c)))[1] for _ in range(2)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    for network in nets:  # BatchNorm of the heads apart, halves of a batch add up to the whole
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.eval()
    for loss in nets[0].local_losses(images, targets):
        loss.total.backward()
    for half in (slice(0, 4), slice(4, 8)):
        for loss in nets[1].local_losses(images[half], targets[half]):
            (loss.total / 2).backward()
    for whole, halves in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.allclose(whole.grad, halves.grad, rtol=1e-3, atol=1e-6)


class ManualOptimisation:
    """The parts of a Lightning module with `automatic_optimization = False` that a training step touches."""

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


def test_a_step_of_manual_optimisation(images_and_targets):
    module = ManualOptimisation(localized(localsl.MLAAN(cascade=2))[1])
    module.training_step(images_and_targets, 0)
    assert set(module.logged) == {"module_0_loss", "module_1_loss", "module_2_loss"}


def test_frozen_seeds_and_the_random_state(images_and_targets):
    before = torch.get_rng_state()
    one, two, three = (localized(seed=seed)[1] for seed in (1, 1, 2))
    assert torch.equal(one.auxiliary[0]["ce"][-1].weight, two.auxiliary[0]["ce"][-1].weight)
    assert not torch.equal(one.auxiliary[0]["ce"][-1].weight, three.auxiliary[0]["ce"][-1].weight)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    localsl.localize(Own(), method=localsl.DGL(), K=2, num_classes=10, example=torch.zeros(2, 3, 8, 8))
    assert before.shape == state.shape


def test_importing_the_library_loads_none_of_the_experiments_packages():
    code = "import localsl, sys; print([m for m in sys.argv[1:] if m in sys.modules])"
    absent = ["hydra", "omegaconf", "wandb", "pandas", "matplotlib", "sklearn", "timm", "localsl.config"]
    told = subprocess.run(
        [sys.executable, "-c", code, *absent], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"
