"""Average precision of boxes and masks, computed by COCO's own code."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from localsl.detection.scenes import encoded, xywh

# Each figure's type of comparison in COCO's code, and its position in COCO's summary.
FIGURES = {
    "ap_box": ("bbox", 0),
    "ap50_box": ("bbox", 1),
    "ap75_box": ("bbox", 2),
    "ap_mask": ("segm", 0),
    "ap50_mask": ("segm", 1),
    "ap75_mask": ("segm", 2),
}
# The types of comparison, and the field of COCO's results that each reads.
KINDS: dict[Literal["bbox", "segm"], str] = {"bbox": "bbox", "segm": "segmentation"}
MASK_THRESHOLD = 0.5  # probability above which a pixel belongs to a mask, as in torchvision's reference


@dataclass(frozen=True)
class Precision:
    """The average precisions of a detector on test images, in per cent."""

    accuracies: dict[str, float]
    loss: None = None


def predictions(output: dict[str, Tensor], image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The output of torchvision's detector for an image, in COCO's results format."""
    found = []
    fields = (output[name].cpu() for name in ("boxes", "labels", "scores", "masks"))
    for box, label, score, mask in zip(*fields, strict=True):
        result = {"image_id": image_id, "category_id": category_ids[int(label) - 1], "score": float(score)}
        found.append(result | {"bbox": xywh(box), "segmentation": encoded(mask[0] > MASK_THRESHOLD)})
    return found


def average_precision(
    truth: dict[str, Any], found: Sequence[dict[str, Any]], image_ids: Sequence[int]
) -> dict[str, float]:
    """The six FIGURES in per cent; all are 0 without predictions.

    Args:
        truth: ground truth in the format of COCO's annotation files.
        found: predictions for the images `image_ids`.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not found:
        return dict.fromkeys(FIGURES, 0.0)
    # Objects are numbered from 1, because COCO's code takes one with the id 0 as not matched by any prediction.
    objects = [entry | {"id": number} for number, entry in enumerate(truth["annotations"], 1)]
    summaries: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        coco: Any = COCO()
        coco.dataset = truth | {"annotations": objects}
        coco.createIndex()
        for kind, key in KINDS.items():
            # Boxes and masks are passed separately: COCO's code treats every result with a box as a box result.
            fields = (key, "image_id", "category_id", "score")
            results = coco.loadRes([{field: entry[field] for field in fields} for entry in found])
            evaluation = COCOeval(coco, results, kind)
            evaluation.params.imgIds = list(image_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            summaries[kind] = evaluation.stats
    return {name: 100 * float(summaries[kind][index]) for name, (kind, index) in FIGURES.items()}
