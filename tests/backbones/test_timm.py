"""timm's networks are cut into their blocks automatically, and refused where this is not possible."""

import subprocess
import sys

import pytest
import timm
import torch
from omegaconf import OmegaConf
from torch import nn

from localsl.cli import commands
from localsl.cli.command_line import check_command_line
from localsl.config import ConfigError, compose
from localsl.network import build_network, count_parameters
from localsl.train import optim
from localsl.train.step import train_step
from tests.conftest import ROOT
from tests.helpers.command import typed
from tests.helpers.config import problems


def described(name):
    """The local layers of a network as "name:channels/stride"."""
    layers = compose([f"backbone=timm/{name}", "K=1"]).backbone.local_layers()
    return " ".join(f"{layer.name}:{layer.channels}/{layer.stride}" for layer in layers)


def test_a_resnet_is_cut_into_its_stem_and_blocks():
    assert described("resnet18") == (
        "conv1:64/4 layer1.0:64/1 layer1.1:64/1 layer2.0:128/2 layer2.1:128/1 "
        "layer3.0:256/2 layer3.1:256/1 layer4.0:512/2 layer4.1:512/1"
    )


def test_a_network_without_blocks_is_cut_at_its_convolutions():
    assert described("vgg11_bn") == (
        "features.0:64/1 features.4:128/2 features.8:256/2 features.11:256/1 "
        "features.15:512/2 features.18:512/1 features.22:512/2 features.25:512/2"
    )


# The number of local layers: the stem, the blocks, and a last 1x1 convolution where there is one.
LAYERS = {"efficientnet_b0": 18, "mobilenetv3_small_100": 13, "regnetx_002": 14, "convnext_atto": 13}


@pytest.mark.parametrize("name", ["resnet18", *LAYERS])
def test_the_local_layers_compute_what_the_whole_network_does(name):
    settings = compose([f"backbone=timm/{name}", "K=1"]).backbone
    torch.manual_seed(0)
    backbone = settings.build(7).eval()
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=7).eval()
    assert len(backbone.layers) == len(settings.local_layers()) == LAYERS.get(name, 9)
    assert count_parameters(backbone) == count_parameters(whole)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone(images), whole(images))
        x, size = images, 64
        for described_layer, layer in zip(settings.local_layers(), backbone.layers, strict=True):
            x, size = layer(x), -(-size // described_layer.stride)
            assert x.shape[1:] == (described_layer.channels, size, size)


@pytest.mark.parametrize("image_size", [50, 64])
def test_sizes_are_those_of_the_layers_outputs(image_size):
    """Convolutions without padding round sizes down, others up."""
    settings = compose(["backbone=timm/convnext_atto", "K=1"]).backbone
    x, sizes = torch.zeros(1, 3, image_size, image_size), []
    with torch.no_grad():
        for layer in settings.build(7).eval().layers:
            x = layer(x)
            sizes.append(x.shape[-1])
    assert settings.sizes(image_size) == sizes


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet19", "did you mean backbone=timm/resnet18?"),
        ("hrnet_w18_small", "cannot be cut: 'stage2' does not return one tensor"),
    ],
)
def test_unknown_networks_and_networks_that_cannot_be_cut_are_refused(name, words):
    (problem,) = problems(f"backbone=timm/{name}", "K=2")
    assert problem.key == "backbone"
    assert words in str(problem)


def test_a_refused_network_ends_with_exit_code_2(monkeypatch, capsys):
    assert typed(monkeypatch, "backbone=timm/resnet19", "K=9") == 2
    assert "did you mean" in capsys.readouterr().err


def test_the_message_about_an_unknown_backbone_mentions_timm():
    with pytest.raises(ConfigError, match=r"timm/<name>"):
        compose(["backbone=timm", "K=2"])


@pytest.mark.parametrize(
    "rule", ["method=dgl", "method=auglocal aux.depth=3", "method=man aux_net=infopro", "method=mlaan"]
)
def test_local_rules_train_a_timm_network(rule):
    cfg = compose([*rule.split(), "backbone=timm/resnet10t", "K=5", "dataset.image_size=32"])
    network = build_network(cfg)
    optimizer = optim.build(network.parameters(), cfg.optimizer)
    losses = list(train_step(network, optimizer, torch.randn(4, 3, 32, 32), torch.arange(4)))
    assert all(bool(torch.isfinite(loss.total)) for loss in losses)
    assert len(losses) == 5


def test_auxiliary_layers_are_copies_after_a_pooling_and_a_projection_that_make_shapes_fit():
    cfg = compose(["backbone=timm/resnet18", "method=auglocal", "aux.depth=3", "K=9"])
    network = build_network(cfg)
    head = network.auxiliary[0]["ce"]
    assert (head.selected, head.strides) == ([4, 8], [2, 2])
    pool, projection, norm, block = head[0]
    assert isinstance(pool, nn.AvgPool2d)
    assert (projection.in_channels, projection.out_channels, projection.kernel_size) == (64, 128, (1, 1))
    assert isinstance(norm, nn.BatchNorm2d)
    original = network.backbone.layers[4]
    assert [p.shape for p in block.parameters()] == [p.shape for p in original.parameters()]
    assert not {p.data_ptr() for p in block.parameters()} & {p.data_ptr() for p in original.parameters()}
    # A block that halves the image itself needs no pooling.
    (copied,) = cfg.backbone.layers_like(2, [3], [2])
    assert [type(m) for m in copied] == [nn.Sequential]


def test_a_copy_of_stride_1_keeps_the_size():
    """The first block of a stage halves the size, so the next block of its width is copied instead."""
    settings = compose(["backbone=timm/resnet18", "K=1"]).backbone
    (copied,) = settings.layers_like(4, [3], [1])
    assert copied(torch.randn(2, 128, 16, 16)).shape == (2, 128, 16, 16)


def test_copied_layer_scales_have_timms_initial_values():
    """torch cannot reset these parameters, so copies keep the values that the network was created with."""
    cfg = compose(["backbone=timm/convnext_atto", "method=auglocal", "aux.depth=2", "K=3"])
    copied = build_network(cfg).auxiliary[0]["ce"]
    gammas = [p for name, p in copied.named_parameters() if name.endswith("gamma")]
    assert gammas
    assert all(bool((gamma == 1e-6).all()) for gamma in gammas)


def test_a_sweep_can_mix_timm_networks_and_other_backbones():
    configs = check_command_line(["-m", "backbone=timm/resnet18,timm/resnet10t,resnet32", "K=4"]).configs
    assert [cfg.backbone.name for cfg in configs] == ["timm_resnet18", "timm_resnet10t", "resnet32"]


def test_hydras_cfg_flag_shows_a_timm_backbone():
    line = [sys.executable, str(ROOT / "run.py"), "--cfg", "job", "backbone=timm/resnet18"]
    shown = OmegaConf.create(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    assert dict(shown.backbone) == {
        "name": "timm_resnet18",
        "family": "timm",
        "scale": "imagenet",
        "model": "resnet18",
    }


def test_timm_is_imported_only_for_a_timm_backbone():
    code = "import sys; from localsl.config import compose; compose(['backbone=resnet34', 'K=2']); "
    code += "sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("name", ["resnet18.a1_in21k", "resnet18.nothing"])
def test_an_unknown_pretrained_tag_is_reported(name):
    with pytest.raises(ConfigError, match=r"Invalid pretrained tag .*type backbone=timm/resnet18"):
        compose([f"backbone=timm/{name}", "K=2"])


@pytest.mark.parametrize("more", [[], ["measure=memory"]])
def test_an_unsupported_image_size_is_reported(more):
    with pytest.raises(ConfigError) as error:
        commands.run(compose(["backbone=timm/vgg11", "K=2", "dataset.image_size=8", *more]))
    (problem,) = error.value.problems
    assert problem.key == "dataset.image_size"
    assert "type dataset.image_size=224" in problem.instead
    assert not list(compose(["backbone=timm/vgg11", "K=2"]).backbone.misfits(32))
