"""Average precision equals that of COCO's own code, and predictions have COCO's format."""

import json
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from localsl.detection.evaluation import FIGURES, average_precision, predictions
from localsl.detection.scenes import ShapeScenes, encoded, xywh


def test_average_precision_equals_that_of_cocos_own_code(tmp_path):
    """Predictions are partly right, some images are empty, and one of the objects is a crowd."""
    scenes, rng = ShapeScenes.of("test", 30), np.random.default_rng(0)
    truth = scenes.truth()
    truth["annotations"] = [entry for entry in truth["annotations"] if entry["image_id"] > 3]
    truth["annotations"][5]["iscrowd"] = 1
    found = []
    for image, scene in zip(scenes.image_ids, scenes.scenes, strict=True):
        for box, label, mask in zip(scene.boxes, scene.labels, scene.masks, strict=True):
            moved = [float(value + rng.normal(0, 1.5)) for value in xywh(box)]
            category = int(label) if rng.random() < 0.8 else int(rng.integers(1, 4))
            prediction = {
                "image_id": image,
                "category_id": category,
                "score": float(rng.random()),
                "bbox": moved,
            }
            shifted = mask.roll((int(rng.integers(-3, 4)), int(rng.integers(-3, 4))), (0, 1))
            found.append(prediction | {"segmentation": encoded(shifted)})
    del found[10:15]
    ours = average_precision(truth, found, [entry["id"] for entry in truth["images"]])

    def as_json(entries):
        texts = [{**e["segmentation"], "counts": e["segmentation"]["counts"].decode()} for e in entries]
        return [entry | {"segmentation": text} for entry, text in zip(entries, texts, strict=True)]

    (tmp_path / "truth.json").write_text(json.dumps(truth | {"annotations": as_json(truth["annotations"])}))
    expected = {}
    with redirect_stdout(StringIO()):
        for kind, left_out in (("bbox", "segmentation"), ("segm", "bbox")):
            results = [{k: v for k, v in entry.items() if k != left_out} for entry in as_json(found)]
            (tmp_path / "found.json").write_text(json.dumps(results))
            coco = COCO(tmp_path / "truth.json")
            reference = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), kind)
            reference.evaluate()
            reference.accumulate()
            reference.summarize()
            expected[kind] = reference.stats
    assert ours == {name: 100 * float(expected[kind][place]) for name, (kind, place) in FIGURES.items()}
    assert len(set(ours.values())) == 6
    assert all(0 < value < 100 for value in ours.values())


def test_average_precision_does_not_depend_on_the_ids_of_objects():
    """COCO's own code takes the object with the id 0 as not matched."""
    scenes = ShapeScenes.of("test", 4)
    truth = scenes.truth()
    found = [entry | {"score": 0.9} for entry in truth["annotations"]]
    for number, entry in enumerate(truth["annotations"]):
        entry["id"] = number
    assert set(average_precision(truth, found, scenes.image_ids).values()) == {100.0}
    assert truth["annotations"][0]["id"] == 0


def test_average_precision_without_predictions_is_0():
    truth = ShapeScenes.of("test", 2).truth()
    assert set(average_precision(truth, [], [1, 2]).values()) == {0.0}


def test_the_true_objects_as_predictions_have_an_average_precision_of_100():
    """The truth is converted as a detector's output is."""
    scenes = ShapeScenes.of("test", 6)
    found = []
    for index, scene in enumerate(scenes.scenes):
        output = {"boxes": scene.boxes, "labels": scene.labels, "masks": scene.masks[:, None].float()}
        output["scores"] = torch.full((len(scene.labels),), 0.9)
        found += predictions(output, scenes.image_ids[index], scenes.category_ids)
    precision = average_precision(scenes.truth(), found, scenes.image_ids)
    assert set(precision.values()) == {100.0}
