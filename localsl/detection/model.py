"""torchvision's Mask R-CNN on a trained backbone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from localsl.core.architecture import Backbone, LocalLayer

if TYPE_CHECKING:
    from localsl.detection.settings import DetectorSettings

BOX_SIZE = 7  # height and width of a proposal's features in the box head, torchvision's default
ASPECT_RATIOS = (0.5, 1.0, 2.0)


def pyramid(
    backbone: Backbone, layers: Sequence[LocalLayer], channels: int, trainable_layers: int
) -> BackboneWithFPN:
    """A feature pyramid on the stages of a backbone, without its classifier.

    As in torchvision for a trained backbone, BatchNorm is frozen, and so are the weights of the stem and the first
    stages: all but the last `trainable_layers` of them.
    """
    stages: OrderedDict[str, list[nn.Module]] = OrderedDict(stem=[])
    widths: dict[str, int] = {}
    for module, layer in zip(backbone.layers, layers, strict=True):
        name = "stem" if layer.is_stem else f"stage{layer.stage}"
        stages.setdefault(name, []).append(module)
        widths[name] = layer.channels
    parts: OrderedDict[str, nn.Module] = OrderedDict((n, nn.Sequential(*found)) for n, found in stages.items())
    for part in list(parts.values())[: len(parts) - trainable_layers]:
        part.requires_grad_(False)
    names = [name for name in parts if name != "stem"]
    returned = {name: str(level) for level, name in enumerate(names)}
    body = cast("nn.Sequential", frozen(nn.Sequential(parts)))
    return BackboneWithFPN(body, returned, [widths[name] for name in names], channels)


def frozen(network: nn.Module) -> nn.Module:
    """The network with every BatchNorm replaced by one whose statistics and weights are constant."""
    if isinstance(network, nn.BatchNorm2d):
        norm = FrozenBatchNorm2d(network.num_features, eps=network.eps)
        norm.load_state_dict(network.state_dict(), strict=False)  # num_batches_tracked has no counterpart
        return norm
    for name, child in network.named_children():
        setattr(network, name, frozen(child))
    return network


def mask_rcnn(
    backbone: BackboneWithFPN,
    num_classes: int,
    settings: DetectorSettings,
    shortest: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> MaskRCNN:
    """Build Mask R-CNN with torchvision's defaults for all that `settings` does not cover.

    Args:
        num_classes: without the background.
        shortest: length to which the shorter side of images is resized, in pixels.
        mean, std: of pixel values from 0 to 255, one per channel.
    """
    width, features = settings.channels, settings.box_features
    anchors = AnchorGenerator(
        tuple((size,) for size in settings.anchors), (ASPECT_RATIOS,) * len(settings.anchors)
    )
    return MaskRCNN(
        backbone,
        min_size=shortest,
        max_size=settings.longest,
        image_mean=[value / 255 for value in mean],
        image_std=[value / 255 for value in std],
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=settings.proposals,
        rpn_post_nms_top_n_train=settings.proposals,
        rpn_pre_nms_top_n_test=settings.test_proposals,
        rpn_post_nms_top_n_test=settings.test_proposals,
        box_batch_size_per_image=settings.rois,
        box_head=TwoMLPHead(width * BOX_SIZE**2, features),
        box_predictor=FastRCNNPredictor(features, num_classes + 1),
        mask_head=MaskRCNNHeads(width, [width] * settings.mask_layers, 1),
        mask_predictor=MaskRCNNPredictor(width, width, num_classes + 1),
    )
