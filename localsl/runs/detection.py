"""The detection task: Mask R-CNN on a backbone trained by another run, tested by average precision."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from localsl.config.backbone_run import found_folder
from localsl.core.architecture import Backbone
from localsl.core.initialization import seeded
from localsl.core.network import count_parameters
from localsl.core.settings import ConfigError, LocalslError
from localsl.detection.batches import TestScenes, TrainScenes
from localsl.detection.evaluation import Precision, average_precision, predictions
from localsl.detection.model import mask_rcnn, pyramid
from localsl.detection.network import DetectionNetwork
from localsl.detection.sources import Data
from localsl.execution.processes import Part, Team
from localsl.runs import checkpoint, display, lock, stored
from localsl.train.step import Autocast
from localsl.train.task import Batches, Task

if TYPE_CHECKING:
    from localsl.config.schema import Config

PARTS = {
    "backbone": "backbone.body",
    "feature pyramid": "backbone.fpn",
    "proposals": "rpn",
    "heads": "roi_heads",
}


class Detection(Task):
    """Predicts the boxes, classes and masks of objects."""

    def __init__(self, cfg: Config, data: Data, backbone: Backbone | None = None):
        """`backbone` is the trained backbone, by default that of the run `cfg.backbone_run`."""
        self._cfg, self._data = cfg, data
        self.network = self._network = build_detector(cfg, backbone)
        self.images = {"train": len(data.train), "test": len(data.test)}
        self.classes = cfg.dataset.num_classes
        trained = count_parameters(self._network.detector.get_submodule(PARTS["backbone"]))
        parameters = {"backbone": trained, "with_detector": count_parameters(self._network)}
        self.record = {"task": "detection", "backbone_run": cfg.backbone_run, "parameters": parameters}

    def describe(self) -> str:
        """The parts of the detector with their numbers of parameters."""
        return describe(self._cfg, self._network)

    def batches(self, device: torch.device, layout: torch.memory_format, part: Part) -> Batches:
        """Batches of scenes, which the detector itself resizes."""
        cfg, workers = self._cfg, self._cfg.dataset.workers
        train = TrainScenes(self._data.train, cfg.batch_size, cfg.dataset.flip, workers, device, part)
        return Batches(train, TestScenes(self._data.test, cfg.batch_size, workers, device, part))

    @torch.no_grad()
    def evaluate(self, batches: Iterable[tuple[Any, Any]], forward: Autocast, team: Team) -> Precision:
        """Evaluate the average precision over the images of all processes."""
        self.network.eval()
        test, found = self._data.test, []
        for images, indices in batches:
            if not indices:
                continue
            with forward():
                outputs = self._network(images)
            for output, index in zip(outputs, indices, strict=True):
                found += predictions(output, test.image_ids[index], test.category_ids)
        gathered = [prediction for part in team.gather(found) for prediction in part]
        return Precision(team.broadcast(lambda: average_precision(test.truth(), gathered, test.image_ids)))


def describe(cfg: Config, network: DetectionNetwork) -> str:
    """The parts of a detector with their numbers of parameters, as a table."""
    rows = []
    for name, place in PARTS.items():
        parameters = list(network.detector.get_submodule(place).parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        rows.append({"part": name, "parameters": sum(p.numel() for p in parameters), "trained": trained})
    lines = [
        f"{cfg.detector.name} on {cfg.backbone.name}, trained with {cfg.method.name} in run {cfg.backbone_run}, "
        f"{cfg.dataset.name}, {cfg.dataset.image_size} pixels on the shorter side",
        display.table(rows),
    ]
    if cfg.processes and cfg.processes > 1:
        lines.append(
            f"{cfg.processes} processes, each with {cfg.batch_size // cfg.processes} images of each batch"
        )
    return "\n".join(lines)


def build_detector(cfg: Config, backbone: Backbone | None = None) -> DetectionNetwork:
    """Build the detector of a configuration; all weights but those of the trained backbone depend on the seed.

    Args:
        backbone: the trained backbone, by default that of the run `cfg.backbone_run`.

    Raises:
        LocalslError: if that run or its checkpoint does not exist.
    """
    backbone = trained_backbone(cfg) if backbone is None else backbone
    data, layers = cfg.dataset, cfg.backbone.local_layers()
    with seeded(cfg.seed, "detector"):
        features = pyramid(backbone, layers, cfg.detector.channels, cfg.detector.trainable_layers)
        detector = mask_rcnn(features, data.num_classes, cfg.detector, data.image_size, data.mean, data.std)
    return DetectionNetwork(detector)


def trained_backbone(cfg: Config) -> Backbone:
    """The backbone with the weights of its run, but with an untrained classifier, which detectors do not use.

    Raises:
        LocalslError: if the run is not done, or has no checkpoint.
    """
    run = f"the run {cfg.backbone_run} of the backbone"
    instead = "type its command again with checkpoint.required=true, or run the table, which trains it"
    try:
        folder = found_folder(cfg.backbone_folder or str(cfg.backbone_run), cfg)
    except ConfigError:
        raise LocalslError(f"{run} is not trained yet: {instead}") from None
    if lock.is_held(folder):
        raise LocalslError(f"{run} is still running: type the same command once it is done")
    record = stored.read(folder / "record.json")
    if record is None or record["status"] != "done":
        raise LocalslError(f"{run} is not done: {instead}")
    state = checkpoint.weights(folder)
    if state is None:
        raise LocalslError(f"{run} has no readable checkpoint in {folder}: {instead}")
    with seeded(0, "unused"):
        backbone = cfg.backbone.build(num_classes=1)
    kept = {name: value for name, value in state.items() if name.startswith("backbone.layers.")}
    backbone.layers.load_state_dict({n.removeprefix("backbone.layers."): value for n, value in kept.items()})  # pyright: ignore
    return backbone
