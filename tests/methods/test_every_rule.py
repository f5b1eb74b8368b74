"""Every rule trains on the published networks, and a new rule or backbone needs only two files."""

import itertools
import sys
from pathlib import Path

import pytest
import torch

from localsl import backbones, methods
from localsl.config import ConfigError, compose
from localsl.network import build_network
from localsl.train import optim
from localsl.train.step import train_step
from tests.helpers.command import SMOKE, records, typed
from tests.helpers.data import stl10_folder
from tests.helpers.rules import RULES

# The published networks but ResNet-32 with K=16, which a fast test trains.
PUBLISHED = [("resnet32", K) for K in (2, 3, 4, 8)] + [("resnet110", K) for K in (2, 3, 4, 8, 16, 32, 55)]
CASES = list(itertools.product(RULES, PUBLISHED))


def take_two_steps(rule, backbone, K):
    name, *more = rule.split()
    if name == "auglocal":
        more.append("aux.depth=3")
        more += ["aux.pyramid=0"] if K == 2 else []
    if name.startswith(("mlaan", "mlm")) and K == 2:
        more.append("method.cascade=2")
    cfg = compose([f"method={name}", *more, f"backbone={backbone}", f"K={K}"])
    network = build_network(cfg)
    optimizer = optim.build(network.parameters(), cfg.optimizer)
    images, targets = torch.randn(4, 3, 8, 8), torch.arange(4)
    for _ in range(2):
        losses = list(train_step(network, optimizer, images, targets))
    assert all(bool(torch.isfinite(loss.total)) for loss in losses)
    assert losses[-1].module == len(network.local_modules) - 1


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_takes_two_steps_at_the_layer_wise_K(rule):
    take_two_steps(rule, "resnet32", 16)


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "network"), CASES)
def test_every_rule_takes_two_steps_at_every_other_published_K(rule, network):
    take_two_steps(rule, *network)


TOY_RULE = '''
from dataclasses import dataclass

from localsl.methods.base import HeadMethod, output_objective
from localsl.core.objectives import CrossEntropy, Objective, Part
from localsl.aux_nets.heads import InfoProHead


@dataclass(kw_only=True)
class Toy(HeadMethod):
    """Every second module has a linear classifier, the others train nothing."""

    every: int

    def objectives(self, plan):
        objectives = []
        for module in range(plan.modules - 1):
            head = InfoProHead("0c1f", plan.site(module).channels, 64, 10)
            objectives.append(Objective([] if module % self.every else [Part([CrossEntropy(head)])]))
        return [*objectives, output_objective(plan)]
'''

TOY_YAML = """# @package _global_
defaults:
  - override /aux_net: linear
  - _self_
method: {name: toy, rule: toy, every: 2}
"""


def test_a_new_rule_needs_one_file_and_one_yaml(tmp_path, monkeypatch, images_and_targets):
    code, conf = tmp_path / "methods", tmp_path / "conf" / "method"
    code.mkdir()
    conf.mkdir(parents=True)
    (code / "toy.py").write_text(TOY_RULE)
    (conf / "toy.yaml").write_text(TOY_YAML)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(code)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    cfg = compose([f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "method=toy", "K=4", "method.every=2"])
    network = build_network(cfg)
    optimizer = optim.build(network.parameters(), cfg.optimizer)
    assert [loss.module for loss in train_step(network, optimizer, *images_and_targets)] == [0, 2, 3]
    sys.modules.pop("localsl.methods.toy")
    with pytest.raises(ConfigError, match=r"method\.every=x: must be a whole number"):
        compose([f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "method=toy", "method.every=x"])


TOY_BACKBONE = '''
from dataclasses import dataclass

from torch import nn

from localsl.backbones.base import BackboneConfig, LayeredBackbone
from localsl.core.architecture import LocalLayer


@dataclass(kw_only=True)
class Toy(BackboneConfig):
    """Convolutions of one width, every second one of stride 2."""

    width: int
    depth: int

    def local_layers(self):
        return [LocalLayer(f"1.{i}", self.width, 1 + i % 2) for i in range(self.depth)]

    def layer_like(self, index, c_in, stride):
        return nn.Sequential(nn.Conv2d(c_in, self.width, 3, stride, 1), nn.ReLU())

    def build(self, num_classes):
        layers = [
            self.layer_like(i, self.width if i else 3, layer.stride)
            for i, layer in enumerate(self.local_layers())
        ]
        pool = nn.AdaptiveAvgPool2d(1)
        return LayeredBackbone(layers, nn.Sequential(pool, nn.Flatten(), nn.Linear(self.width, num_classes)))
'''

TOY_BACKBONE_YAML = "{name: toy, family: toy, width: 8, depth: 4}"


def test_a_new_backbone_needs_one_file_and_one_yaml(tmp_path, monkeypatch, images_and_targets):
    code, conf = tmp_path / "backbones", tmp_path / "conf" / "backbone"
    code.mkdir()
    conf.mkdir(parents=True)
    (code / "toy.py").write_text(TOY_BACKBONE)
    (conf / "toy.yaml").write_text(TOY_BACKBONE_YAML)
    monkeypatch.setattr(backbones, "__path__", [*backbones.__path__, str(code)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    overrides = [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "backbone=toy"]
    rules = ["dgl", "predsim", "infopro", "auglocal aux.depth=2", "man aux_net=dgl", "mlaan", "bp"]
    for rule in rules:
        cfg = compose([*overrides, f"method={rule.split()[0]}", *rule.split()[1:], "K=4"])
        network = build_network(cfg)
        optimizer = optim.build(network.parameters(), cfg.optimizer)
        losses = list(train_step(network, optimizer, *images_and_targets))
        assert losses[-1].module == len(network.local_modules) - 1
    assert len(build_network(compose([*overrides, "backbone.depth=6", "K=6"])).local_modules) == 6
    with pytest.raises(ConfigError, match=r"backbone\.width=x: must be a whole number"):
        compose([*overrides, "backbone.width=x", "K=4"])
    sys.modules.pop("localsl.backbones.toy")


@pytest.mark.slow
def test_man_trains_on_stl10_at_K55(tmp_path, monkeypatch):
    stl10_folder(tmp_path / "data", train=20, test=10)
    monkeypatch.setenv("LOCALSL_DATA", str(tmp_path / "data"))
    line = ["method=man", "dataset=stl10", "backbone=resnet110", "K=55"]
    assert typed(monkeypatch, *line, "schedule=smoke") == 0
    (record,) = records()
    assert (record["method"], record["modules"], record["status"]) == ("man", 55, "done")
    assert Path("outputs/stl10/man-resnet110-K55").is_dir()


@pytest.mark.slow
def test_a_sweep_over_three_rules_and_five_depths_makes_fifteen_runs(monkeypatch):
    sweep = ["-m", "method=dgl,infopro,auglocal", "aux.depth=2,3,4,5,6"]
    assert typed(monkeypatch, *sweep, *SMOKE) == 0
    assert len({r["id"] for r in records()}) == 15
    assert {r["status"] for r in records()} == {"done"}
