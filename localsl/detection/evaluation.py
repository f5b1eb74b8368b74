"""Average precision of boxes and masks, by COCO's own code."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from localsl.detection.scenes import encoded, xywh

# By COCO's name of what is compared, and the place in its summary.
FIGURES = {
    "ap_box": ("bbox", 0),
    "ap50_box": ("bbox", 1),
    "ap75_box": ("bbox", 2),
    "ap_mask": ("segm", 0),
    "ap50_mask": ("segm", 1),
    "ap75_mask": ("segm", 2),
}
KINDS: dict[Literal["bbox", "segm"], str] = {"bbox": "bbox", "segm": "segmentation"}  # and the field of results
INSIDE = 0.5  # the probability from which on a pixel belongs to a mask: torchvision's reference


@dataclass(frozen=True)
class Precision:
    """What a detector does on test images: `accuracies` are average precisions in per cent."""

    accuracies: dict[str, float]
    loss: None = None


def predictions(output: dict[str, Tensor], image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """What torchvision's detector says of an image, in COCO's format of results."""
    found = []
    fields = (output[name].cpu() for name in ("boxes", "labels", "scores", "masks"))
    for box, label, score, mask in zip(*fields, strict=True):
        said = {"image_id": image_id, "category_id": category_ids[int(label) - 1], "score": float(score)}
        found.append(said | {"bbox": xywh(box), "segmentation": encoded(mask[0] > INSIDE)})
    return found


def average_precision(
    truth: dict[str, Any], found: Sequence[dict[str, Any]], image_ids: Sequence[int]
) -> dict[str, float]:
    """The six figures of a table, in per cent; all 0 where nothing was found.

    Args:
        truth: as an annotation file of COCO's.
        found: predictions, of these images.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not found:
        return dict.fromkeys(FIGURES, 0.0)
    summaries: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        known: Any = COCO()
        known.dataset = truth
        known.createIndex()
        for kind, key in KINDS.items():
            # Of one kind: COCO's code takes results with boxes for results of boxes.
            fields = (key, "image_id", "category_id", "score")
            ours = known.loadRes([{field: entry[field] for field in fields} for entry in found])
            evaluation = COCOeval(known, ours, kind)
            evaluation.params.imgIds = list(image_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            summaries[kind] = evaluation.stats
    return {name: 100 * float(summaries[kind][place]) for name, (kind, place) in FIGURES.items()}
