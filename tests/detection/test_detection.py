"""Detectors: built on a run's backbone, trained and resumed on shapes, and refused where settings are wrong."""

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
from localsl.tables import results, sweep_files, sweeps
from localsl.tables.results import Composed
from localsl.train import optim
from tests.helpers.coco import coco_folder
from tests.helpers.runs import assert_same, left_by, run_until_sigterm

BACKBONE = ["method=bp", "dataset=shapes", "backbone=resnet10", "K=5", "dataset.train_subset=60"]
BACKBONE += ["dataset.test_subset=15", "device=cpu", "seed=0"]
DETECTOR = ["task=detection", "dataset=shapes", "dataset.train_subset=8", "dataset.test_subset=6", "device=cpu"]
DETECTOR += ["schedule.epochs=2", "detector.proposals=20", "detector.test_proposals=10", "detector.rois=8"]
BY_OVERRIDES = f'backbone_run="{" ".join(BACKBONE)}"'


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """An output folder with a trained backbone's run."""
    folder = tmp_path_factory.mktemp("outputs")
    experiment.run(compose([*BACKBONE, f"output_dir={folder}"]))
    return folder


def by_folder(outputs):
    """The override that names the backbone's run by its folder, which saves composing its configuration."""
    (folder,) = outputs.glob("shapes/bp-resnet10/seed=0-*")
    return f"backbone_run='{folder}'"


def detector_config(outputs, *more):
    return compose([*DETECTOR, by_folder(outputs), f"output_dir={outputs}", *more])


def test_a_detector_starts_from_the_weights_and_statistics_of_the_run(outputs):
    trained = build_network(compose(BACKBONE))
    state = Checkpoints(compose([*BACKBONE, f"output_dir={outputs}"])).newest()
    assert state is not None
    trained.load_state_dict(state["network"])
    network = detection.build_detector(detector_config(outputs))
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


def test_only_the_trainable_stages_of_the_backbone_are_trained(outputs):
    network = detection.build_detector(detector_config(outputs, "detector.trainable_layers=2"))
    body = network.detector.backbone.body
    trained = {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}
    assert trained == {"stage3", "stage4"}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    (batch,) = TrainScenes(ShapeScenes.of("train", 2), 2, False, None, torch.device("cpu")).epoch(0, 1)
    before = {name: value.clone() for name, value in body.state_dict().items()}
    (loss,) = network.train().local_losses(*batch)
    loss.total.backward()
    optimizer.step()
    changed = {n.split(".")[0] for n, value in body.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"stage3", "stage4"}
    assert float(loss.total.detach()) == pytest.approx(
        sum(float(t.detach()) for t in loss.terms.values()), rel=1e-6
    )


def test_a_stopped_detector_resumes_bit_for_bit_and_leaves_a_complete_record(outputs, tmp_path):
    """It is stopped in the second epoch after the first step, and in the evaluation at the epoch's end."""
    folder = run_directory(compose([*BACKBONE, f"output_dir={outputs}"]))
    straight, stopped = (
        compose([*DETECTOR, f"backbone_run='{folder}'", f"output_dir={name}"])
        for name in ("straight", "stopped")
    )
    experiment.run(straight)
    for owner, name, call, steps in ((TrainScenes, "_target", 13, 1), (detection, "predictions", 1, 2)):
        run_until_sigterm(stopped, owner, name, call)
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


def test_a_detector_trains_on_images_in_cocos_layout(outputs, tmp_path):
    folder = coco_folder(tmp_path)
    overrides = ["task=detection", "dataset=coco", f"dataset.root={folder}", "dataset.num_classes=2"]
    overrides += ["batch_size=2", "dataset.image_size=32", "detector=maskrcnn_small", "detector.rois=8"]
    overrides += ["dataset.workers=1", "schedule=smoke", "schedule.epochs=1", "device=cpu"]
    cfg = compose([*overrides, by_folder(outputs)])
    record = experiment.run(cfg)
    assert (record["status"], record["images"]) == ("done", {"train": 2, "test": 2})
    assert cfg.dataset.files == [3, 2]
    assert 0 <= record["last"]["ap_box"] <= 100


def test_the_backbones_run_is_named_by_its_id_its_folder_or_its_overrides(outputs):
    cfg = compose([*DETECTOR, BY_OVERRIDES, f"output_dir={outputs}"])
    folder = run_directory(compose([*BACKBONE, f"output_dir={outputs}"]))
    detector = [*DETECTOR, f"output_dir={outputs}"]
    others = [compose([*detector, f"backbone_run='{name}'"]) for name in (folder.name[-8:], folder)]
    assert {run_id(other) for other in others} == {run_id(cfg)}
    assert (cfg.method.name, cfg.backbone.name, cfg.K) == ("bp", "resnet10", 5)
    assert run_id(detector_config(outputs, "seed=3")) != run_id(cfg)
    assert run_directory(cfg).parent.name == "maskrcnn_small-bp-resnet10"


@pytest.mark.parametrize(
    ("overrides", "message"),
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
        (["dataset.validation=3"], "dataset.validation=3: a detector is trained on all images"),
        (["dataset.skip_broken=true"], "dataset.skip_broken=True: a detector's images are complete"),
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
def test_wrong_settings_of_a_detector_are_refused(overrides, message, outputs):
    named = not overrides or any(override.startswith("backbone_run") for override in overrides)
    with pytest.raises(ConfigError, match=message):
        compose([*DETECTOR, *overrides, *([] if named else [by_folder(outputs)])])


def test_classification_refuses_settings_of_detection():
    with pytest.raises(ConfigError, match="type task=detection backbone_run=ID"):
        compose(["dataset=coco"])
    with pytest.raises(ConfigError, match="applies to detection only; type task=detection too"):
        compose(["backbone_run='0badc0de'"])


def test_a_backbone_that_is_not_trained_is_reported(tmp_path):
    with pytest.raises(LocalslError, match="is not trained yet"):
        experiment.run(compose([*DETECTOR, BY_OVERRIDES, f"output_dir={tmp_path}"]))


def test_settings_of_a_detector_do_not_enter_the_identity_of_classification():
    plain, with_detector = (
        identity(asdict(compose(["dataset=shapes", *more]))) for more in ([], ["detector=maskrcnn"])
    )
    assert plain == with_detector
    assert not [name for name in plain if name.startswith(("detector", "task", "backbone_run"))]


def test_cocos_recipe_is_the_1x_schedule():
    """AugLocal's appendix A.7: AdamW, 12 epochs, batches of 16."""
    cfg = compose(["task=detection", "dataset=coco", BY_OVERRIDES])
    assert (cfg.optimizer.name, cfg.schedule.epochs, cfg.batch_size) == ("adamw", 12, 16)
    rates = [optim.learning_rate(epoch, 1.0, cfg.schedule) for epoch in range(1, 13)]
    assert rates == pytest.approx([1.0] * 8 + [0.1] * 3 + [0.01])
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.schedule.warmup_steps) == (1e-4, 0.05, 1000)
    assert (cfg.detector.trainable_layers, cfg.dataset.image_size, cfg.detector.longest) == (3, 800, 1333)


def test_table_12_trains_its_backbones_first_and_has_six_metrics(outputs):
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
    rows = results.rows(table, Composed(request, configs), [])
    assert {row["status"] for row in rows} == {"missing"}


def test_overrides_of_table_12_reach_backbones_and_detectors_except_the_detectors_own():
    overrides = ["schedule=smoke", "dataset=shapes", "backbone=resnet10", "K=5", "detector.rois=8"]
    request = sweeps.requested(["sweep=auglocal/table12", *overrides])
    cell = request.tables[0].cells[1]
    (backbone,), (detector,) = request.backbone_runs(cell), request.overrides(cell)
    assert {"schedule=smoke", "dataset=shapes", "backbone=resnet10", "K=5", "aux.depth=5"} <= set(backbone)
    assert "detector.rois=8" not in backbone
    assert "detector.rois=8" in detector
    cfg = compose(detector)
    assert (cfg.backbone.name, cfg.method.name, cfg.dataset.name) == ("resnet10", "auglocal", "shapes")
    assert cfg.backbone_run == run_id(compose([*backbone, f"seed={sweeps.BACKBONE_SEED}"]))
    assert Path(run_directory(cfg)).name.startswith("seed=1234-")
