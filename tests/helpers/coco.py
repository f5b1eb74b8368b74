"""A tiny folder in COCO's layout."""

import json

import numpy as np
from PIL import Image

RECTANGLE = [4, 6, 12, 6, 12, 16, 4, 16]


def entry(annotation, image, category=7, **changes):
    """An annotation of the given ids: a rectangle of 8 by 10 pixels, with some fields changed."""
    found = {"id": annotation, "image_id": image, "category_id": category, "bbox": [4, 6, 8, 10], "area": 80}
    return found | {"iscrowd": 0, "segmentation": [RECTANGLE]} | changes


def annotated(images, entries):
    """The content of an annotation file: images of 24 by 20 pixels, and two categories whose ids leave gaps."""
    listed = [{"id": i, "file_name": f"{i:012}.jpg", "width": 24, "height": 20} for i in images]
    categories = [{"id": 9, "name": "dog"}, {"id": 7, "name": "cat"}]
    return {"images": listed, "annotations": entries, "categories": categories}


CROWD = entry(4, 12, iscrowd=1, segmentation={"size": [20, 24], "counts": [0, 240, 240]}, bbox=[0, 0, 12, 20])
TRAIN = annotated([11, 12, 13], [entry(1, 11), entry(2, 12, 9), entry(3, 12, bbox=[4, 6, 0, 10]), CROWD])
TEST = annotated([21, 22], [entry(1, 21, 9)])


def coco_folder(tmp_path):
    """Write COCO's layout: training image 13 and test image 22 are empty, and one object of image 12 is a crowd."""
    for part, values in (("train2017", TRAIN), ("val2017", TEST)):
        write(tmp_path, part, values)
        (tmp_path / part).mkdir()
        for image in values["images"]:
            pixels = np.random.default_rng(image["id"]).integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / image["file_name"])
    return tmp_path


def write(folder, part, values):
    """Write the annotation file of a split."""
    file = folder / "annotations" / f"instances_{part}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(values))
