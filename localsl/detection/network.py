"""A detector as a network with a single module and one loss, which the training loop requires."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from localsl.core.learner import Learner, LocalLoss


@dataclass(frozen=True)
class SingleModule:
    """The only module of a network that is trained end to end."""

    index: int = 0


class DetectionNetwork(Learner):
    """Mask R-CNN for images (3, H, W) of any sizes, with values from 0 to 1."""

    def __init__(self, detector: MaskRCNN):
        super().__init__()
        self.detector = detector
        self.local_modules = [SingleModule()]

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """The predicted boxes, labels, scores and masks for each image."""
        return self.detector(images)

    def local_losses(self, images: Any, targets: Any) -> Iterator[LocalLoss]:
        """Yield one loss, the sum of the losses of classes, boxes, masks, objectness and proposals."""
        terms: dict[str, Tensor] = self.detector(images, targets)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        yield LocalLoss(0, total, terms, dict.fromkeys(terms, 1.0), None)

    def layers_of(self, module: Any) -> list[nn.Module]:
        """The whole detector."""
        return [self.detector]
