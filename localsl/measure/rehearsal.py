"""Rehearsing a configuration: a training step and an evaluation of its real network on a few random images.

It needs no data set. Only the batch and the images differ from the run: network, heads, optimizer, learning rate and
training loop are the run's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from localsl.config.validation import compose
from localsl.core.learner import Learner
from localsl.core.network import LocalNetwork, count_parameters
from localsl.core.settings import LocalslError
from localsl.data.loading import Data
from localsl.data.splits import Split
from localsl.execution import devices
from localsl.measure.fake import fake_run
from localsl.measure.footprint import footprint
from localsl.runs.classification import Classification
from localsl.runs.training import Training
from localsl.train.signals import Stop
from localsl.train.task import Task

if TYPE_CHECKING:
    from localsl.config.schema import Config

# Images in a batch: BatchNorm needs two values per channel, and a contrastive loss two images of a class.
IMAGES = 2


@dataclass(frozen=True)
class Rehearsed:
    """The result of a rehearsal.

    Attributes:
        modules: number of local modules.
        network, auxiliary: numbers of parameters of the backbone and of the auxiliary networks.
        traced: peak bytes of a training step that was only traced; None if the step was taken.
    """

    modules: int
    network: int
    auxiliary: int
    traced: int | None = None


def rehearse(overrides: Sequence[str]) -> Rehearsed:
    """Take the first training step of the run that these overrides start, and evaluate.

    Raises:
        LocalslError: if a loss is not finite, or a module has no gradient.
    """
    cfg = reduced(overrides)
    devices.use_threads(cfg)
    task = synthetic_task(cfg)
    network = task.network
    for layer in network.modules():
        if isinstance(layer, BatchNorm):
            layer.momentum = 1.0  # with its initial statistics, evaluation can overflow in a deep network
    training = Training(cfg, task, devices.chosen(cfg.device))
    with closing(training.train(Stop())) as rows:
        row = next(rows)
    idle = without_gradient(network)
    if idle:
        raise LocalslError(f"no gradient in module {', '.join(map(str, idle))}")
    if not row["lr"] > 0:
        raise LocalslError("the first epoch's learning rate is 0")
    return _result(network)


def trace(overrides: Sequence[str]) -> Rehearsed:
    """Trace the training step and the evaluation on tensors without data, for networks that do not fit in memory."""
    cfg = reduced(overrides)
    peak = footprint(cfg).peak
    with fake_run(cfg, cfg.batch_size) as run, torch.no_grad():
        run.network.eval()(run.images)
        return replace(_result(run.network), traced=peak)


def reduced(overrides: Sequence[str]) -> Config:
    """The configuration with a batch of `IMAGES` images, in one process on one CPU thread."""
    cfg = compose([*overrides, "device=cpu", "threads=1"])
    checkpoint = replace(cfg.checkpoint, every=None)
    return replace(cfg, batch_size=IMAGES, processes=1, checkpoint=checkpoint)


def synthetic_task(cfg: Config) -> Task:
    """The task of the configuration on random images; a detector starts from an untrained backbone."""
    if cfg.task.name == "classification":
        return Classification(cfg, synthetic_data(cfg))
    from localsl.detection import sources  # imported late, because only detection needs it
    from localsl.detection.scenes import ShapeScenes
    from localsl.runs.detection import Detection

    class Scenes(ShapeScenes):
        @property
        def category_ids(self) -> Sequence[int]:  # the detector has more classes than there are shapes
            return range(1, cfg.dataset.num_classes + 1)

    scenes = sources.Data(Scenes.of("train", IMAGES), Scenes.of("test", IMAGES))
    return Detection(cfg, scenes, cfg.backbone.build(num_classes=1))


def synthetic_data(cfg: Config) -> Data:
    """Random images of the data set's size, all of its last class."""
    size, classes = cfg.dataset.image_size, cfg.dataset.num_classes
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 3, size, size), dtype=torch.uint8, generator=random)
    split = Split(pixels, torch.full((IMAGES,), classes - 1))
    return Data(split, split, split if cfg.dataset.validation else None)


def without_gradient(network: Learner) -> list[int]:
    """The modules whose layers had no non-zero gradient in the last step."""
    idle = []
    for module in network.local_modules:
        layers = network.layers_of(module)
        gradients = [p.grad for layer in layers for p in layer.parameters() if p.grad is not None]
        if not any(bool(gradient.any()) for gradient in gradients):
            idle.append(module.index)
    return idle


def _result(network: Learner) -> Rehearsed:
    total = count_parameters(network)
    backbone = count_parameters(network.backbone) if isinstance(network, LocalNetwork) else total
    return Rehearsed(len(network.local_modules), backbone, total - backbone)
