"""Average precision: that of COCO's own code, of what a detector says."""

import json
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from localsl.detection.evaluation import FIGURES, average_precision, predictions
from localsl.detection.scenes import ShapeScenes, encoded, xywh


def test_average_precision_is_that_of_cocos_own_code_on_a_file(tmp_path):
    """Of predictions that are partly right, on images some of which are empty, with a crowd among the objects."""
    scenes, rng = ShapeScenes.of("test", 30), np.random.default_rng(0)
    truth = scenes.truth()
    truth["annotations"] = [entry for entry in truth["annotations"] if entry["image_id"] > 3]
    truth["annotations"][5]["iscrowd"] = 1
    found = []
    for image, scene in zip(scenes.image_ids, scenes.scenes, strict=True):
        for box, label, mask in zip(scene.boxes, scene.labels, scene.masks, strict=True):
            moved = [float(value + rng.normal(0, 1.5)) for value in xywh(box)]
            kind = int(label) if rng.random() < 0.8 else int(rng.integers(1, 4))
            said = {"image_id": image, "category_id": kind, "score": float(rng.random()), "bbox": moved}
            shifted = mask.roll((int(rng.integers(-3, 4)), int(rng.integers(-3, 4))), (0, 1))
            found.append(said | {"segmentation": encoded(shifted)})
    del found[10:15]
    ours = average_precision(truth, found, [entry["id"] for entry in truth["images"]])

    def texts(entries):
        coded = [{**e["segmentation"], "counts": e["segmentation"]["counts"].decode()} for e in entries]
        return [entry | {"segmentation": code} for entry, code in zip(entries, coded, strict=True)]

    (tmp_path / "truth.json").write_text(json.dumps(truth | {"annotations": texts(truth["annotations"])}))
    expected = {}
    with redirect_stdout(StringIO()):
        for kind, left_out in (("bbox", "segmentation"), ("segm", "bbox")):
            results = [{k: v for k, v in entry.items() if k != left_out} for entry in texts(found)]
            (tmp_path / "found.json").write_text(json.dumps(results))
            known = COCO(tmp_path / "truth.json")
            reference = COCOeval(known, known.loadRes(str(tmp_path / "found.json")), kind)
            reference.evaluate()
            reference.accumulate()
            reference.summarize()
            expected[kind] = reference.stats
    assert ours == {name: 100 * float(expected[kind][place]) for name, (kind, place) in FIGURES.items()}
    assert len(set(ours.values())) == 6
    assert all(0 < value < 100 for value in ours.values())


def test_nothing_found_is_a_precision_of_0():
    truth = ShapeScenes.of("test", 2).truth()
    assert set(average_precision(truth, [], [1, 2]).values()) == {0.0}


def test_what_a_detector_says_is_what_cocos_format_holds():
    """The truth, put through the form of the detector's output, is all right."""
    scenes = ShapeScenes.of("test", 6)
    found = []
    for index, scene in enumerate(scenes.scenes):
        output = {"boxes": scene.boxes, "labels": scene.labels, "masks": scene.masks[:, None].float()}
        output["scores"] = torch.full((len(scene.labels),), 0.9)
        found += predictions(output, scenes.image_ids[index], scenes.category_ids)
    precision = average_precision(scenes.truth(), found, scenes.image_ids)
    assert set(precision.values()) == {100.0}
