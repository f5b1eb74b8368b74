"""Detection: its evaluation, the detector around a run's backbone, and the whole path on shapes."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d

from localsl.config import ConfigError, compose
from localsl.config.identity import identity, run_id
from localsl.core.settings import LocalslError
from localsl.detection.batches import TrainScenes
from localsl.detection.evaluation import FIGURES
from localsl.detection.scenes import ShapeScenes
from localsl.network import build_network
from localsl.runs import detection, experiment, stored
from localsl.runs.checkpoint import Checkpoints
from localsl.runs.identity import run_directory
from localsl.tables import render, sweep_files, sweeps
from localsl.tables.render import Composed
from localsl.train import optim
from tests.helpers.coco import coco_folder
from tests.helpers.runs import assert_same, left_by, terminated

BACKBONE = ["method=bp", "dataset=shapes", "backbone=resnet10", "K=5", "dataset.train_subset=60"]
BACKBONE += ["dataset.test_subset=15", "device=cpu", "seed=0"]
DETECTOR = ["task=detection", "dataset=shapes", "dataset.train_subset=8", "dataset.test_subset=6", "device=cpu"]
DETECTOR += ["schedule.epochs=2", "detector.proposals=20", "detector.test_proposals=10", "detector.rois=8"]
NAMED = f'backbone_run="{" ".join(BACKBONE)}"'


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A folder with the run of a backbone."""
    folder = tmp_path_factory.mktemp("outputs")
    experiment.run(compose([*BACKBONE, f"output_dir={folder}"]))
    return folder


def by_folder(outputs):
    """The override that names the backbone's run without composing it."""
    (folder,) = outputs.glob("shapes/bp-resnet10/seed=0-*")
    return f"backbone_run='{folder}'"


def composed(outputs, *more):
    return compose([*DETECTOR, by_folder(outputs), f"output_dir={outputs}", *more])


def test_a_detector_starts_from_the_weights_and_statistics_of_the_run(outputs):
    trained = build_network(compose(BACKBONE))
    state = Checkpoints(compose([*BACKBONE, f"output_dir={outputs}"])).newest()
    assert state is not None
    trained.load_state_dict(state["network"])
    network = detection.build_detector(composed(outputs))
    body = network.detector.backbone.body
    images = torch.randn(2, 3, 64, 64)
    trained.eval()
    expected = images
    with torch.no_grad():
        found = list(body(images).values())
        for index, layer in enumerate(trained.backbone.layers):
            expected = layer(expected)
            if index:
                torch.testing.assert_close(found[index - 1], expected, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in body.modules())
    assert sum(isinstance(module, FrozenBatchNorm2d) for module in body.modules()) == 12


def test_only_the_last_stages_are_trained(outputs):
    network = detection.build_detector(composed(outputs, "detector.trainable_layers=2"))
    body = network.detector.backbone.body
    trained = {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}
    assert trained == {"stage3", "stage4"}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    (batch,) = TrainScenes(ShapeScenes.of("train", 2), 2, False, None, torch.device("cpu")).epoch(0, 1)
    before = {name: value.clone() for name, value in body.state_dict().items()}
    (loss,) = network.train().local_losses(*batch)
    loss.total.backward()
    optimizer.step()
    moved = {n.split(".")[0] for n, value in body.state_dict().items() if not torch.equal(value, before[n])}
    assert moved == {"stage3", "stage4"}
    assert float(loss.total.detach()) == pytest.approx(
        sum(float(t.detach()) for t in loss.terms.values()), rel=1e-6
    )


def test_a_stopped_detector_goes_on_bit_for_bit_and_leaves_the_record_of_any_run(outputs, tmp_path):
    """Stopped in the second epoch after its first step, and in the evaluation at its end."""
    folder = run_directory(compose([*BACKBONE, f"output_dir={outputs}"]))
    straight, stopped = (
        compose([*DETECTOR, f"backbone_run='{folder}'", f"output_dir={name}"])
        for name in ("straight", "stopped")
    )
    experiment.run(straight)
    for owner, name, call, steps in ((TrainScenes, "_target", 13, 1), (detection, "predictions", 1, 2)):
        terminated(stopped, owner, name, call)
        state = Checkpoints(stopped).newest()
        assert state is not None
        assert (state["epochs"], state["steps"]) == (1, steps)
    experiment.run(stopped)
    assert_same(left_by(stopped), left_by(straight))
    record = stored.read_record(straight)
    assert record is not None
    assert (record["status"], record["task"], record["backbone_run"]) == ("done", "detection", folder.name[-8:])
    assert record["images"] == {"train": 8, "test": 6}
    assert set(FIGURES) <= set(record["last"])
    assert record["best"]["ap_box"] >= record["last"]["ap_box"]
    header = (run_directory(straight) / "metrics.csv").read_text().splitlines()[0]
    assert header.startswith("epoch,lr,train_loss,train_accuracy,ap_box,ap50_box,ap75_box,ap_mask,")


def test_a_detector_trains_on_cocos_layout(outputs, tmp_path):
    folder = coco_folder(tmp_path)
    typed = [
        "task=detection",
        "dataset=coco",
        f"dataset.root={folder}",
        "dataset.num_classes=2",
        "batch_size=2",
    ]
    typed += ["dataset.image_size=32", "detector=maskrcnn_small", "detector.rois=8", "dataset.workers=1"]
    cfg = compose([*typed, "schedule=smoke", "schedule.epochs=1", "device=cpu", by_folder(outputs)])
    record = experiment.run(cfg)
    assert (record["status"], record["images"]) == ("done", {"train": 2, "test": 2})
    assert cfg.dataset.files == [3, 2]
    assert 0 <= record["last"]["ap_box"] <= 100


def test_the_backbones_run_is_named_by_its_id_its_folder_or_what_is_typed(outputs):
    cfg = compose([*DETECTOR, NAMED, f"output_dir={outputs}"])
    folder = run_directory(compose([*BACKBONE, f"output_dir={outputs}"]))
    here = [*DETECTOR, f"output_dir={outputs}"]
    others = [compose([*here, f"backbone_run='{named}'"]) for named in (folder.name[-8:], folder)]
    assert {run_id(other) for other in others} == {run_id(cfg)}
    assert (cfg.method.name, cfg.backbone.name, cfg.K) == ("bp", "resnet10", 5)
    assert run_id(composed(outputs, "seed=3")) != run_id(cfg)
    assert run_directory(cfg).parent.name == "maskrcnn_small-bp-resnet10"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ([], "detection needs the run of a trained backbone"),
        (["backbone_run='0badc0de'"], "is not a run"),
        (["method=dgl"], "method=dgl: run .* trained resnet10 with bp"),
        (["backbone=resnet20"], "backbone=resnet20: run"),
        (["dataset=digits"], "has no objects' boxes and masks"),
        (["compile=true"], "compile=True: does not apply to detection"),
        (["memory=lean"], "memory=lean: does not apply to detection"),
        (["measure=memory"], "measure=memory: does not apply to detection"),
        (["optimizer.per_module=true"], "a detector is one module"),
        (["detector.anchors=[8,16]"], "one size, at least 1, for each of 4 stages and one more"),
        (["detector.trainable_layers=6"], "at most 5"),
        (["detector.longest=32"], "below the shorter side"),
        (["backbone_run='dataset=shapes optimizer.lr=-1'"], "backbone_run: optimizer.lr=-1"),
        pytest.param(
            ["backbone_run='dataset=digits backbone=timm/resnet18 K=4'"],
            "no stages, which a feature pyramid needs",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_a_detector_cannot_be_is_told(typed, told, outputs):
    started = [] if any(o.startswith("backbone_run") for o in typed) or not typed else [by_folder(outputs)]
    with pytest.raises(ConfigError, match=told):
        compose([*DETECTOR, *typed, *started])


def test_classification_refuses_what_is_of_detection():
    with pytest.raises(ConfigError, match="type task=detection backbone_run=ID"):
        compose(["dataset=coco"])
    with pytest.raises(ConfigError, match="applies to detection only; type task=detection too"):
        compose(["backbone_run='0badc0de'"])


def test_a_backbone_that_is_not_trained_is_told(tmp_path):
    with pytest.raises(LocalslError, match="is not trained yet"):
        experiment.run(compose([*DETECTOR, NAMED, f"output_dir={tmp_path}"]))


def test_a_detector_enters_no_identity_of_classification():
    one, other = (identity(asdict(compose(["dataset=shapes", *more]))) for more in ([], ["detector=maskrcnn"]))
    assert one == other
    assert not [name for name in one if name.startswith(("detector", "task", "backbone_run"))]


def test_adamw_is_torchs():
    settings = compose(["optimizer=adamw", "optimizer.lr=0.01"]).optimizer
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 6)) for _ in range(2)]
    ours, theirs = optim.build(weights[:1], settings), torch.optim.AdamW(weights[1:], 0.01, weight_decay=0.05)
    for step in range(3):
        for weight, optimizer in zip(weights, (ours, theirs), strict=True):
            weight.grad = (step + 1) * weight.detach().cos()
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-6, atol=1e-7)
    assert not torch.allclose(weights[0], torch.linspace(-1, 1, 6))


def test_a_warm_up_of_steps_is_linear_and_of_the_first_epoch(monkeypatch):
    assert [optim.warmup_factor(step, 4) for step in range(6)] == [0.001, 0.25075, 0.5005, 0.75025, 1, 1]
    rates = []
    real = optim.SGD.step

    def step(self, *arguments):
        rates.append(self.lr)
        return real(self, *arguments)

    monkeypatch.setattr(optim.SGD, "step", step)
    small = ["dataset.train_subset=60", "batch_size=20", "schedule.epochs=2", "schedule.warmup_epochs=0"]
    cfg = compose([*small, "method=bp", "dataset.test_subset=20", "schedule.warmup_steps=2", "device=cpu"])
    experiment.run(cfg)
    whole = [optim.learning_rate(epoch, cfg.optimizer.lr, cfg.schedule) for epoch in (1, 2)]
    assert rates == [whole[0] * 0.001, whole[0] * 0.5005, whole[0], whole[1], whole[1], whole[1]]


def test_cocos_recipe_is_the_1x_schedule():
    """AugLocal's appendix A.7: AdamW, 12 epochs, batches of 16."""
    cfg = compose(["task=detection", "dataset=coco", NAMED])
    assert (cfg.optimizer.name, cfg.schedule.epochs, cfg.batch_size) == ("adamw", 12, 16)
    rates = [optim.learning_rate(epoch, 1.0, cfg.schedule) for epoch in range(1, 13)]
    assert rates == pytest.approx([1.0] * 8 + [0.1] * 3 + [0.01])
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.schedule.warmup_steps) == (1e-4, 0.05, 1000)
    assert (cfg.detector.trainable_layers, cfg.dataset.image_size, cfg.detector.longest) == (3, 800, 1333)


def test_table_12_trains_its_backbones_first_and_has_six_columns(outputs):
    request = sweeps.requested(["sweep=auglocal/table12"])
    (table,) = request.tables
    backbones, detectors = request.jobs[:2], request.jobs[2:]
    assert all(job.needed and "checkpoint.required=true" in job.overrides for job in backbones)
    assert not any(job.needed for job in detectors)
    of_table_3 = {cell.overrides for cell in sweep_files.read("auglocal/table3").cells}
    assert {job.overrides[:-1] for job in backbones} <= of_table_3
    assert {number.metric for cell in table.cells for number in cell.numbers} == set(FIGURES)
    configs = {job.overrides: compose(job.typed) for job in detectors}
    trained = [run_id(compose(job.typed)) for job in backbones]
    assert [cfg.backbone_run for cfg in configs.values()] == trained
    assert [cfg.K for cfg in configs.values()][1] == 17
    made = render.rows(table, Composed(request, configs), [])
    assert {row["status"] for row in made} == {"missing"}


def test_what_is_typed_beside_a_table_reaches_both_but_for_the_detectors_own():
    typed = ["schedule=smoke", "dataset=shapes", "backbone=resnet10", "K=5", "detector.rois=8"]
    request = sweeps.requested(["sweep=auglocal/table12", *typed])
    cell = request.tables[0].cells[1]
    (backbone,), (detector,) = request.backbone_runs(cell), request.overrides(cell)
    assert {"schedule=smoke", "dataset=shapes", "backbone=resnet10", "K=5", "aux.depth=5"} <= set(backbone)
    assert "detector.rois=8" not in backbone
    assert "detector.rois=8" in detector
    cfg = compose(detector)
    assert (cfg.backbone.name, cfg.method.name, cfg.dataset.name) == ("resnet10", "auglocal", "shapes")
    assert cfg.backbone_run == run_id(compose([*backbone, f"seed={sweeps.BACKBONE_SEED}"]))
    assert Path(run_directory(cfg)).name.startswith("seed=1234-")
