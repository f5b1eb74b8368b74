"""Composition, types, ranges, combinations: what passes, and what each mistake is told as."""

from dataclasses import make_dataclass
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import localsl
from localsl import methods
from localsl.config import compose
from localsl.config.building import method_of, partition_of
from localsl.config.composition import CONF, REFUSED, Composition, by_hydra
from localsl.core.settings import first_line
from localsl.network import build_network
from localsl.runs import identity
from localsl.train import optim
from localsl.train.step import train_step
from tests.helpers.config import problems


def test_defaults():
    cfg = compose()
    assert (cfg.method.name, cfg.dataset.name, cfg.backbone.name, cfg.K) == (
        "dgl",
        "digits",
        "resnet32",
        16,
    )
    assert (cfg.aux.head, cfg.batch_size, cfg.optimizer.lr, cfg.schedule.name) == (
        "dgl",
        128,
        0.1,
        "short",
    )


@pytest.mark.parametrize(
    ("dataset", "batch_size", "lr"),
    [("cifar10", 1024, 0.8), ("svhn", 1024, 0.8), ("stl10", 128, 0.1)],
)
def test_recipe_of_the_papers(dataset, batch_size, lr):
    cfg = compose([f"dataset={dataset}"])
    assert (cfg.batch_size, cfg.optimizer.lr) == (batch_size, lr)
    assert (cfg.schedule.epochs, cfg.schedule.warmup_epochs, cfg.schedule.warmup_lr) == (
        400,
        10,
        0.01,
    )
    assert (cfg.optimizer.momentum, cfg.optimizer.nesterov, cfg.optimizer.weight_decay) == (
        0.9,
        True,
        1e-4,
    )


def test_what_is_typed_wins_over_what_a_group_brings():
    cfg = compose(["dataset=digits", "schedule=smoke", "batch_size=64", "optimizer.lr=1"])
    assert (cfg.schedule.epochs, cfg.batch_size, cfg.optimizer.lr) == (3, 64, 1.0)


def test_data_folder_from_the_environment(monkeypatch):
    monkeypatch.setenv("LOCALSL_DATA", "/somewhere")
    assert compose().data_dir == "/somewhere"
    assert compose(["data_dir=here"]).data_dir == "here"


# Each mistake: what is typed, the key it is told under, and words that the message must hold.
MISTAKES = [
    ("K=0", "K", "1 to 16"),
    ("K=99", "K", "1 to 16"),
    ("K=abc", "K", "whole number"),
    ("K=[1", "K", "cannot be parsed"),
    ("K=2,4", "K", "-m"),
    ("K", "K", "key=value"),
    ("~K", "~K", "cannot be deleted"),
    ("~optimizer.lr", "~optimizer.lr", "cannot be deleted"),
    ("~dataset", "~dataset", "cannot be deleted"),
    ("=3", "=3", "key=value"),
    ("method=bp,dgl", "method", "add -m"),
    ("method=null", "method", "one of"),
    ("backbone=32", "backbone", "resnet32"),
    ("backbone.name=resnet110", "backbone.name", "[18, 18, 18]"),
    ("backbone.blocks=[3,3,3]", "backbone.name", "NAME"),
    ("backbone.name=../x", "backbone.name", "letters"),
    ("dataset.mean=[[1],2,3]", "dataset.mean", "list of numbers"),
    ("+dataset.files=[1,2]", "dataset.files", "counted"),
    ("threads=100000", "threads", "at most"),
    ("batch_size=99999999999999999999", "batch_size", "at most"),
    ("dataset.padding=100000", "dataset.padding", "at most"),
    ("device=cuda:", "device", "cuda:0"),
    ("data_dir=~/x", "data_dir", "type 'data_dir="),
    ("method=dlg", "method", "did you mean method=dgl"),
    ("dataset=cifar11", "dataset", "did you mean dataset=cifar10"),
    ("+aux.dept=3", "+aux.dept", "did you mean aux.depth?"),
    ("aux.dept=3", "aux.dept", "did you mean aux.depth?"),
    ("+foo=1", "+foo", "unknown key"),
    ("method.rule=foo", "method.rule", "bp, bp_checkpoint, dgl"),
    ("dataset.name=foo", "dataset.name", "digits"),
    ("optimizer.lr=-1", "optimizer.lr", "above 0"),
    ("optimizer.lr=nan", "optimizer.lr", "finite number above 0"),
    (f"optimizer.lr=1{'0' * 400}", "optimizer.lr", "must be a number"),
    ("optimizer.momentum=1", "optimizer.momentum", "below 1"),
    ("optimizer.momentum=0", "optimizer.momentum", "Nesterov"),
    ("optimizer={name:adam,beta2:0.999}", "optimizer.nesterov", "SGD only"),
    ("schedule.decay=0.5", "schedule.decay", "milestones"),
    ("batch_size=1", "batch_size", "at least 2"),
    ("schedule.epochs=0", "schedule.epochs", "at least 1"),
    ("schedule.epochs=1.5", "schedule.epochs", "whole number"),
    ("seed=-1", "seed", "at least 0"),
    ("precision=fp16", "precision", "fp32, bf16"),
    ("device=gpu", "device", "auto, cpu"),
    ("device=cuda:64", "device", "device=cpu"),
    ("show=everything", "show", "modules, runs"),
    ("logger.mode=on", "logger.mode", "unknown key"),
    ("dataset.mean=[1,2]", "dataset.mean", "three numbers"),
    ("dataset.std=[1,2,0]", "dataset.std", "above 0"),
    ("dataset.train_subset=0", "dataset.train_subset", "at least 1"),
    ("dataset.num_classes=1", "dataset.num_classes", "at least 2"),
    ("dataset.root=there", "dataset.root", "dataset=imagefolder"),
    ("dataset=imagefolder", "dataset.root", "dataset.root=FOLDER"),
    ("dataset.crop=resized", "dataset.crop", "dataset.crop=padded"),
    ("dataset.workers=-1", "dataset.workers", "null"),
    ("backbone=resnet20", "K", "type K=10"),
    ("backbone.blocks=[]", "backbone.blocks", "at least 1"),
    ("backbone.widths=[16]", "backbone.widths", "3 stages"),
    ("backbone.family=vit", "backbone.family", "cifar_resnet, efficientnet"),
    ("partition.balance=memory", "partition.balance", "resnet110 on cifar10"),
    ("partition.stem=none", "partition.stem", "own, merged"),
    ("aux_net=none", "aux.head", "type aux_net=dgl"),
    ("aux_net=predsim", "aux.lambda_similarity", "method=predsim"),
    ("aux.depth=1", "aux.depth", "at least 2"),
    ("aux.depth=16", "aux.depth", "leaves no auxiliary network"),
    ("aux.selection=random", "aux.selection", "uniform, sequential"),
    ("aux.lambda_ce=[1]", "aux.lambda_ce", "two numbers"),
    ("aux.lambda_similarity=null", "aux.lambda_similarity", "list of numbers"),
    ("ema=man", "ema.source", "dgl has no momentum layers"),
    ("ema.momentum=0.9", "ema.momentum", "unknown key"),
    ("analysis=ckaa", "analysis", "did you mean analysis=cka?"),
    ("runs=[abc]", "runs", "type analysis=cka"),
    ("checkpoint={every:null,required:true}", "checkpoint.every", "needs checkpoints"),
    ("methd=man", "methd", "did you mean method?"),
    ("datset=cifar10", "datset", "did you mean dataset?"),
    ("optimiser=adam", "optimiser", "did you mean optimizer?"),
    ("backbne=resnet110", "backbne", "did you mean backbone?"),
    ("aux=infopro", "+aux", "did you mean aux_net?"),
    ("hydra/launcher=joblb", "hydra/launcher", "basic, joblib, submitit_local, submitit_slurm; did you mean"),
    ("hydra/lancher=joblib", "hydra/lancher", "did you mean hydra/launcher?"),
    ("hydra.run.dri=x", "hydra.run.dri", "did you mean hydra.run.dir?"),
]


@pytest.mark.parametrize(("typed", "key", "words"), MISTAKES)
def test_a_mistake_is_told(typed, key, words):
    found = [problem for problem in problems(typed) if problem.key == key]
    assert len(found) == 1
    assert words in str(found[0])


@pytest.mark.parametrize(
    ("base", "default"),
    [
        (localsl.MLAAN, ("cascade", 2)),
        (localsl.DGL, ("head", "2c2f")),
        (localsl.AugLocal, ("depth", 3)),
        (localsl.MAN, ("momentum", 0.9)),
    ],
)
def test_a_registered_rule_has_the_defaults_of_its_class(monkeypatch, base, default):
    rule = make_dataclass("Mine", [(default[0], Any, default[1])], bases=(base,), kw_only=True)
    monkeypatch.setattr(methods, "_registered", {"mine": rule})
    cfg = compose(["method=mine"])
    assert method_of(cfg).settings() == rule().resolved(partition_of(cfg)).settings()
    if base is not localsl.AugLocal:
        assert (
            compose(["method=mine", "aux_net=dgl_1c2f"]).aux == compose(["method=dgl", "aux_net=dgl_1c2f"]).aux
        )


def test_backpropagation_takes_any_K_but_no_auxiliary_network():
    assert compose(["method=bp", "K=99"]).K == 99
    assert [p.key for p in problems("method=bp", "aux_net=dgl")] == ["aux.head"]


def test_all_problems_are_told_together():
    found = problems("K=99", "optimizer.lr=-1", "+aux.dept=3", "precision=fp8", "dataset.mean=[1]", "~seed")
    assert {p.key for p in found} == {"K", "optimizer.lr", "+aux.dept", "precision", "dataset.mean", "~seed"}
    found = problems("method.rule=x", "optimizer={lr:-1}", "K=99")
    assert {p.key for p in found} == {"method.rule", "optimizer.lr", "K"}


def test_a_wrong_choice_brings_no_problems_of_the_default_in_its_place():
    assert [p.key for p in problems("backbone=resnt110", "K=55")] == ["backbone"]
    assert [p.key for p in problems("logger=wandbb", "logger.project=x")] == ["logger"]
    assert [p.key for p in problems("dataset=imagefoldr", "dataset.root=/x")] == ["dataset"]
    joblib = ("hydra.launcher.n_jobs=2", "hydra/launcher=joblib")
    assert [p.key for p in problems(*joblib, "method=dlg")] == ["method"]


# Of the rules that have switches of their own.
RULE_MISTAKES = [
    (["method=bp", "ema=man"], "ema.source", "no momentum layers"),
    (["method=bp", "aux.depth=3"], "aux.depth", "leave aux.depth out"),
    (["method=man", "aux.depth=3"], "aux.depth", "man has no"),
    (["method=man", "aux_net=auglocal"], "aux.head", "DGL, InfoPro or PredSim"),
    (["method=man", "ema.source=none", "ema.bias=channel"], "ema.source", "ema.bias=block"),
    (["method=mlaan", "method.cascade=5", "K=4"], "method.cascade", "4 modules"),
    (["method=mlaan", "method.cascade=0"], "method.cascade", "at least 1"),
    (["method=lam", "method.leap=false"], "method.leap", "type method=dgl"),
    (["method=auglocal", "K=2", "aux.pyramid=0.5"], "aux.pyramid", "makes two"),
    (["method=auglocal", "aux.depth=null"], "aux.depth", "type aux.depth=2"),
    (["method=auglocal", "aux_net=dgl"], "aux.head", "type aux_net=auglocal"),
    (["method=auglocal", "aux.selection=uniform/conv3x3"], "aux.multiplier", "aux.multiplier=1"),
    (["method=infopro", "aux_net=dgl"], "aux.lambda_reconstruction", "type aux_net=infopro"),
    (["method=predsim", "aux_net=dgl"], "aux.lambda_similarity", "type aux_net=predsim"),
    (["method=man", "ema.moves=last"], "ema.moves", "type ema.moves=all"),
    (["method=man", "ema.layers=first"], "ema.layers", "type ema.layers=all"),
    (["method=man", "ema=lam_released"], "ema.gradient", "type ema=man or"),
    (["method=man", "aux.selection=sequential"], "aux.selection", "type method=auglocal"),
    (["method=dgl", "aux.depth=3", "aux.selection=conv1x1"], "aux.selection", "type method=auglocal"),
    (["method=dgl", "aux.multiplier=2"], "aux.multiplier", "leave aux.multiplier out"),
    (["method=auglocal", "aux.multiplier=2"], "aux.multiplier", "leave aux.multiplier out"),
    (["method=mlaan", "aux.multiplier=2"], "aux.multiplier", "leave aux.multiplier out"),
]


@pytest.mark.parametrize(("typed", "key", "words"), RULE_MISTAKES)
def test_a_mistake_with_a_rule_is_told(typed, key, words):
    assert any(p.key == key and words in str(p) for p in problems(*typed))


@pytest.mark.parametrize(
    "typed",
    [
        ["K=4", "method=man", "dataset=cifar10", "schedule.epochs=300", "aux_net=infopro"],
        ["+logger.tagz=3", "dataset.mean=[1,2,3]", "method=auglocal", "data_dir='a b'"],
        ["optimizer={lr:0.2,momentum:0.5}", "optimizer.lr=0.3", "K=2"],
        ["optimizer={lr:0.2,momentum:0.5}", "optimizer.lr=0.3", "hydra/launcher=joblib", "K=2"],
        ["dataset=imagenet", "backbone=timm/resnet18", "method=predsim_original", "K=2"],
        ["task=detection", "dataset=shapes", "backbone=resnet10", "+optimizer.mine=1", "K=2"],
        ["hydra.launcher.n_jobs=2", "hydra/launcher=joblib", "ema=man", "K=2", "++threads=2"],
    ],
)
def test_a_shared_composition_is_hydras(typed):
    composition = Composition()
    composition([o for o in typed if not o.startswith("K=")])  # the same choices, other values
    assert composition(typed) == by_hydra(typed)


@pytest.mark.parametrize("typed", ["K=2,4", "+K=3", "aux.dept=3", "method=dlg", "optimizer@aux=sgdd"])
def test_a_shared_composition_refuses_what_hydra_refuses(typed):
    for make in (by_hydra, Composition()):
        with pytest.raises(REFUSED):
            make([typed])


def test_every_file_of_conf_composes_builds_and_steps(pictures):
    needs = {
        "dataset/imagefolder": [f"dataset.root={pictures}"],
        "aux_net/none": ["method=bp"],
        "aux_net/predsim": ["method=predsim"],
        "aux_net/infopro": ["method=infopro"],
        "aux_net/infopro_2c2f": ["method=infopro"],
        "aux_net/auglocal": ["method=auglocal", "aux.depth=2"],
        "method/auglocal": ["aux.depth=2"],
        **{f"ema/{name}": ["method=man"] for name in ("man", "man_released")},
        **{f"ema/{name}": ["method=mlaan"] for name in ("lam", "lam_released")},
    }
    of_detection = ("dataset/coco", "task/detection")  # tests/detection/test_detection.py
    files = [f for f in sorted(CONF.glob("*/*.yaml")) if f"{f.parent.name}/{f.stem}" not in of_detection]
    assert {"method", "aux_net", "backbone", "dataset"} <= {file.parent.name for file in files}
    for file in files:
        group = file.parent.name
        tiny = ["backbone.blocks=[1,1,1]", "backbone.name=tiny", "K=4"]
        if group == "backbone":  # the ImageNet networks whole would take a minute
            blocks = [1] * len(OmegaConf.load(file).blocks)
            tiny = [f"backbone.blocks={blocks}".replace(" ", ""), "backbone.name=tiny", "K=2"]
        more = needs.get(f"{group}/{file.stem}", [])
        cfg = compose([f"{group}={file.stem}", *tiny, *more])
        network = build_network(cfg)
        optimizer = optim.build(network.parameters(), cfg.optimizer)
        images = torch.rand(2, 3, cfg.dataset.image_size, cfg.dataset.image_size)
        losses = list(train_step(network, optimizer, images, torch.tensor([0, 1])))
        assert losses
        assert all(bool(torch.isfinite(loss.total)) for loss in losses)


def test_yaml_states_every_default():
    """What a file leaves out would be a default that `--cfg job` does not show."""
    for name in ("digits", "cifar10", "svhn", "stl10", "imagefolder", "imagenet"):
        keys = set(OmegaConf.load(CONF / "dataset" / f"{name}.yaml").dataset)
        assert keys == set(OmegaConf.load(CONF / "dataset" / "digits.yaml").dataset)


# Epochs, batch, learning rates of the first and the last epoch.
RECIPES = {
    "auglocal_vgg13": (90, 256, 0.1, 3.0459e-5),
    "auglocal_resnet34": (200, 1024, 0.4, 2.4674e-5),
    "auglocal_resnet101": (200, 512, 0.2, 1.2337e-5),
    "mlaan_resnet34": (150, 128, 0.05, 5.4829e-6),
    "mlaan_resnet101": (150, 64, 0.05, 5.4829e-6),
    "man": (90, 128, 0.05, 1.5229e-5),
    "man_small_batch": (90, 64, 0.025, 7.6147e-6),
    "infopro": (90, 1024, 0.4, 1.2184e-4),
    "infopro_resnext101": (90, 512, 0.4, 1.2184e-4),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_for_imagenet(recipe):
    epochs, batch, first, last = RECIPES[recipe]
    for dataset in ("imagenet", "cifar10"):  # it wins over the data set's own
        cfg = compose([f"dataset={dataset}", f"recipe={recipe}", "schedule=paper"])
        assert (cfg.recipe.name, cfg.schedule.epochs, cfg.batch_size) == (recipe, epochs, batch)
        rates = [optim.learning_rate(e, cfg.optimizer.lr, cfg.schedule) for e in (1, 1 + epochs // 2, epochs)]
        assert rates == pytest.approx([first, first / 2, last], rel=1e-4)
    typed = ["dataset=imagenet", f"recipe={recipe}", "batch_size=32", "optimizer.lr=0.3", "schedule=smoke"]
    cfg = compose(typed)
    assert (cfg.batch_size, cfg.optimizer.lr, cfg.schedule.epochs) == (32, 0.3, 3)


def test_recipes_that_data_sets_bring():
    assert compose(["dataset=imagenet"]).recipe.name == "man"
    cfg = compose(["dataset=cifar10"])
    assert (cfg.recipe.name, cfg.schedule.epochs, cfg.schedule.zero_based) == ("small", 400, False)
    assert (cfg.batch_size, cfg.dataset.sgd_lr) == (1024, 0.8)
    assert compose().schedule.name == "short"


def test_recipes_and_workers_are_names_for_values_that_an_identity_has():
    base = ["dataset=cifar10", "schedule=paper", "method=dgl"]
    assert identity.run_id(compose(base)) == "112efe66"  # of the runs before there were recipes
    values = ["schedule.epochs=90", "batch_size=128", "optimizer.lr=0.05", "schedule.warmup_epochs=0"]
    values += ["schedule.warmup_lr=0", "schedule.zero_based=true", "dataset.workers=3"]
    assert identity.run_id(compose([*base, *values])) == identity.run_id(compose([*base, "recipe=man"]))


def test_an_error_without_words_is_told_by_its_name():
    assert [first_line(error) for error in (EOFError(), ValueError("a\nb"))] == ["EOFError", "a"]
