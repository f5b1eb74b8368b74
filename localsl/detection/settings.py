"""The settings of a detector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from localsl.core.settings import Affects, Problem, name, number, ruled


@dataclass(kw_only=True)
class DetectorSettings:
    """Mask R-CNN on a feature pyramid (conf/detector); the defaults are torchvision's.

    Attributes:
        trainable_layers: how many of the stem and the stages are trained, counted from the last one.
        longest: limit of an image's longer side in pixels; the shorter side is resized to `dataset.image_size`.
        anchors: anchor sizes in pixels, one for each stage of the backbone and one for the level above them.
        channels: channels of each level of the pyramid and of the mask head.
        box_features: width of the box head.
        mask_layers: number of convolutions in the mask head.
        proposals, test_proposals: proposals kept per image in training and in evaluation.
        rois: proposals per image that the heads are trained on.
        batch_size, lr: defaults of the run's batch size and learning rate.
    """

    name: str = ruled(name(), default="maskrcnn")
    trainable_layers: int = ruled(number(0, at_most=64), default=3)
    longest: int = ruled(number(4, at_most=8192), default=1333)
    anchors: list[int] = field(default_factory=lambda: [32, 64, 128, 256, 512])
    channels: int = ruled(number(1, at_most=4096), default=256)
    box_features: int = ruled(number(1, at_most=65536), default=1024)
    mask_layers: int = ruled(number(1, at_most=64), default=4)
    proposals: int = ruled(number(1, at_most=65536), default=2000)
    test_proposals: int = ruled(number(1, at_most=65536), default=1000)
    rois: int = ruled(number(1, at_most=65536), default=512)
    batch_size: int = ruled(number(2, at_most=2**20), affects=Affects.NOTHING, default=16)
    lr: float = ruled(number(above=0), affects=Affects.NOTHING, default=1e-4)

    def problems(self, stages: int, shortest: int) -> Iterator[Problem]:
        """Settings that do not fit a backbone with this number of stages, or images with this shorter side."""
        if len(self.anchors) != stages + 1 or min(self.anchors, default=0) < 1:
            what = f"one size, at least 1, for each of {stages} stages and one more"
            yield Problem("detector.anchors", self.anchors, what)
        if self.trainable_layers > stages + 1:
            what = f"the backbone has a stem and {stages} stages"
            yield Problem("detector.trainable_layers", self.trainable_layers, what, f"at most {stages + 1}")
        if self.longest < shortest:
            what = f"is below the shorter side, dataset.image_size={shortest}"
            yield Problem("detector.longest", self.longest, what)
