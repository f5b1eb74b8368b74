"""Scenes for detection: COCO's layout on disk, mistakes in it that are reported, and generated shapes."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from PIL import Image

from localsl.config import ConfigError, compose
from localsl.config.identity import run_id
from localsl.core.settings import LocalslError
from localsl.data import loading, shapes
from localsl.data.scenes import Scene
from localsl.data.splits import Split
from localsl.detection import coco, sources
from localsl.detection.batches import TestScenes, TrainScenes
from localsl.detection.scenes import ShapeScenes, encoded, subset
from localsl.execution.processes import Part
from tests.helpers.coco import CROWD, annotated, coco_folder, entry, write

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return coco_folder(tmp_path)


@cache
def shapes_settings():
    overrides = ["task=detection", "dataset=shapes", "backbone_run='dataset=shapes backbone=resnet10 K=5'"]
    return compose(overrides).dataset


def dataset(folder, num_classes=2):
    """The settings of a folder in COCO's layout, before its files have been read."""
    return replace(shapes_settings(), name="coco", num_classes=num_classes, root=str(folder))


def load(folder):
    return sources.load(dataset(folder), str(folder / "data"))


def test_empty_images_and_crowds_are_used_in_evaluation_only(folder):
    scenes = load(folder)
    assert (scenes.train.image_ids, scenes.test.image_ids) == ([11, 12], [21, 22])
    scene = scenes.train[1]
    assert isinstance(scene, Scene)
    assert scene.labels.tolist() == [2]  # the box without an area is left out, and so is the crowd
    assert [e["id"] for e in scenes.train.truth()["annotations"]] == [1, 2, 3, 4]
    empty = scenes.test[1]
    assert isinstance(empty, Scene)
    assert (len(empty.labels), empty.masks.shape) == (0, (0, 20, 24))


def test_boxes_masks_and_labels_are_those_of_the_annotations(folder):
    scene = load(folder).train[0]
    assert isinstance(scene, Scene)
    assert (scene.labels.tolist(), scene.boxes.tolist()) == ([1], [[4, 6, 12, 16]])
    expected = torch.zeros(1, 20, 24, dtype=torch.uint8)
    expected[:, 6:16, 4:12] = 1
    assert torch.equal(scene.masks, expected)
    crowd = coco._mask(CROWD["segmentation"], 20, 24)
    assert crowd[:, :12].all()
    assert crowd[:, 12:].sum() == 0
    mirrored = scene.mirrored()
    assert mirrored.boxes.tolist() == [[12, 6, 20, 16]]
    assert torch.equal(mirrored.masks, expected.flip(2))
    assert torch.equal(mirrored.image, scene.image.flip(2))


WRONG = {
    "an annotation without a segmentation": ([entry(5, 11, segmentation=[])], "without a segmentation: 5"),
    "an annotation without a box": ([entry(5, 11, bbox=None)], "annotations without bbox: 5"),
    "a box of three numbers": ([entry(5, 11, bbox=[1, 2, 3])], "not four numbers: 5"),
    "an image that is not listed": ([entry(5, 99)], "image_id is none of the file's: 5"),
    "a category that is not listed": ([entry(5, 11, 8)], "category_id is none of the file's: 5"),
    "an id that occurs twice": ([entry(5, 11), entry(5, 12)], "occur twice: 5"),
    "no annotation": ([], "has no annotations"),
    "an id that is a list": ([entry([5], 11)], "id is not an integer: number 0"),
    "a category that is a list": ([entry(5, 11, [7])], "category_id is not an integer: 5"),
    "an image's id that is a text": ([entry(5, "11")], "image_id is not an integer: 5"),
    "an area that is a text": ([entry(5, 11, area="80")], "area is not a number from 0 to 1e10: 5"),
    "an area below 0": ([entry(5, 11, area=-1)], "area is not a number from 0 to 1e10: 5"),
    "a mark of crowds that is a text": ([entry(5, 11, iscrowd="no")], "iscrowd is not 0 or 1: 5"),
    "a box of texts": ([entry(5, 11, bbox=["1", 2, 3, 4])], "not four numbers: 5"),
    "a box that is not finite": ([entry(5, 11, bbox=[1, 2, 3, float("inf")])], "not four numbers: 5"),
}
INVALID_SEGMENTATIONS = {
    "a polygon of one point": [[1, 2]],
    "a polygon of two points": [[1, 2, 8, 9]],
    "a polygon without points": [[]],
    "an odd number of coordinates": [[4, 6, 12, 6, 12, 16, 4]],
    "one polygon of two": [[4, 6, 12, 6, 12, 16], [1, 2, 8]],
    "coordinates that are no lists": [4, 6, 12, 6, 12, 16],
    "coordinates that are texts": [["4", "6", "12", "6", "12", "16"]],
    "a coordinate that is no number": [[4, 6, 12, 6, 12, float("nan")]],
    "a coordinate far outside": [[4, 6, 12, 6, 12, 1e12]],
    "a text": "polygon",
    "a number": 3,
    "an encoding without counts": {"size": [20, 24]},
    "counts of another type": {"size": [20, 24], "counts": 480},
    "an empty text of counts": {"size": [20, 24], "counts": ""},
    "a text of counts that is cut": {"size": [20, 24], "counts": "P"},
    "a text of too few counts": {"size": [20, 24], "counts": "0"},
    "a text of other characters": {"size": [20, 24], "counts": "~~~"},
    "negative counts": {"size": [20, 24], "counts": [500, -20]},
    "counts that are no integers": {"size": [20, 24], "counts": [240.0, 240.0]},
    "too few counts": {"size": [20, 24], "counts": [0, 240]},
    "an encoding without a size": {"counts": [0, 240, 240]},
    "the size with width and height swapped": {"size": [24, 20], "counts": [0, 240, 240]},
}
WRONG |= {
    f"a segmentation: {case}": (
        [entry(5, 11, segmentation=value)],
        "segmentation is neither polygons .* size: 5",
    )
    for case, value in INVALID_SEGMENTATIONS.items()
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_annotations_are_named_before_training(case, folder):
    entries, message = WRONG[case]
    write(folder, "train2017", annotated([11, 12], entries))
    with pytest.raises(ConfigError, match=message):
        sources.described(dataset(folder), str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": [11]}, "1 images whose id is not an integer: number 0"),
        ({"height": "20"}, "1 images whose height is not an integer: 11"),
        ({"width": 24.5}, "1 images whose width is not an integer: 11"),
        ({"file_name": ["11.jpg"]}, "1 images whose file_name is not a text: 11"),
    ],
)
def test_invalid_entries_of_images_are_named(changes, message, folder):
    values = annotated([11, 12], [entry(1, 12)])
    values["images"][0] |= changes
    write(folder, "train2017", values)
    with pytest.raises(ConfigError, match=message):
        sources.described(dataset(folder), str(folder))


def test_categories_with_invalid_ids_are_named(folder):
    values = annotated([11, 12], [entry(1, 12)])
    values["categories"].append({"id": {}, "name": "cow"})
    write(folder, "train2017", values)
    with pytest.raises(ConfigError, match="1 categories whose id is not an integer: number 2"):
        sources.described(dataset(folder), str(folder))


def test_run_length_encodings_as_texts_are_read(folder):
    """They are written by COCO's own code."""
    random = torch.Generator().manual_seed(0)
    masks = (torch.rand(20, 20, 24, generator=random) < torch.linspace(0, 1, 20)[:, None, None]).byte()
    coded = [encoded(mask) for mask in masks]
    texts = [code | {"counts": code["counts"].decode()} for code in coded]
    write(folder, "train2017", annotated([11], [entry(i, 11, segmentation=t) for i, t in enumerate(texts)]))
    scene = load(folder).train[0]
    assert isinstance(scene, Scene)
    assert torch.equal(scene.masks, masks)


@pytest.mark.parametrize("text", ["", '{"images": [', "[]", '{"images": [], "annotations": []}', "[" * 10**6])
def test_an_incomplete_annotation_file_is_named(text, folder):
    (folder / "annotations" / "instances_val2017.json").write_text(text)
    with pytest.raises(ConfigError, match=r"instances_val2017.json (cannot be read|has no list of)"):
        load(folder)


def test_missing_images_files_and_folders_are_named(folder):
    (folder / "train2017" / f"{12:012}.jpg").unlink()
    with pytest.raises(ConfigError, match=r"lacks 1 of 2 images: 000000000012\.jpg"):
        load(folder)
    (folder / "annotations" / "instances_train2017.json").unlink()
    with pytest.raises(ConfigError, match=r"instances_train2017.json is missing"):
        load(folder)
    with pytest.raises(ConfigError, match="there is no folder"):
        load(folder / "nowhere")
    with pytest.raises(ConfigError, match=r"2 categories; type dataset\.num_classes=2"):
        coco._split(folder, "test", dataset(folder, num_classes=80), None)


def test_an_image_that_is_broken_or_of_another_size_is_named(folder):
    file = folder / "train2017" / f"{11:012}.jpg"
    Image.new("RGB", (30, 20)).save(file)
    assert "is 30x20, and 24x20 in its annotations" in str(load(folder).train[0])
    file.write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"000000000011\.jpg") as raised:
        load(folder)
    assert "skip_broken" not in str(raised.value)


def test_test_images_without_an_object_are_refused(folder):
    """COCO's code would return an average precision of -1. The subset's image has only a crowd."""
    settings = dataset(folder)
    chosen = int(subset(2, 1))
    entries = [entry(1, 22 - chosen, 9), entry(2, 21 + chosen, iscrowd=1)]
    write(folder, "val2017", annotated([21, 22], entries))
    assert len(sources.load(settings, str(folder / "data")).test) == 2
    with pytest.raises(ConfigError, match=r"dataset\.test_subset=1: .* no object that is not a crowd"):
        sources.load(replace(settings, test_subset=1), str(folder / "data"))
    write(folder, "val2017", annotated([21, 22], entries[1:]))
    with pytest.raises(ConfigError, match=r"instances_val2017\.json has no object that is not a crowd"):
        load(folder)


def test_the_annotations_of_another_folder_than_the_published_one_enter_the_identity(folder):
    settings = sources.described(dataset(folder), str(folder))
    assert settings.files == [3, 2]
    assert sources.described(dataset(folder), str(folder)) == settings
    (cached,) = (folder / "indexed").glob("coco-*.json")
    write(folder, "val2017", annotated([21, 22], [entry(1, 21, 7)]))
    assert sources.described(dataset(folder), str(folder)).digest != settings.digest
    assert cached.exists()


def test_workers_read_coco_in_the_same_order_as_without_workers(folder):
    scenes = load(folder).train
    found = []
    for workers in (0, 2):
        train = TrainScenes(scenes, 1, True, workers, CPU)
        found.append([(images[0], targets[0]) for images, targets in train.epoch(0, 1)])
        train.close()
    for (image, target), (other_image, other_target) in zip(*found, strict=True):
        assert torch.equal(image, other_image)
        assert all(torch.equal(target[key], other_target[key]) for key in target)


def test_an_epoch_resumes_at_a_batch_and_mirrors_half_of_its_images(monkeypatch):
    scenes = ShapeScenes.of("train", 40)
    train = TrainScenes(scenes, 4, True, None, CPU)
    epochs = []
    monkeypatch.setattr(train, "_loader", lambda batches: epochs.append(batches) or ())
    list(train.epoch(3, 1))
    list(train.epoch(3, 1, 6))
    list(train.epoch(3, 2))
    first, resumed, second = epochs
    assert first[6:] == resumed
    assert first != second
    assert sorted(i for batch in first for i in batch.indices) == list(range(40))
    assert 10 <= sum(m for batch in first for m in batch.mirrored) <= 30


@pytest.mark.parametrize("workers", [0, 1])
def test_images_for_the_test_are_read_without_decoding_masks(workers, folder, monkeypatch):
    scenes = load(folder).test
    expected = [
        scene.image.float() / 255 for scene in map(scenes.__getitem__, (0, 1)) if isinstance(scene, Scene)
    ]
    monkeypatch.setattr(coco, "_mask", lambda *_: pytest.fail("decoded"))
    test = TestScenes(scenes, 1, workers, CPU)
    found = [image for images, _ in test for image in images]
    test.close()
    assert len(found) == 2
    assert all(torch.equal(image, other) for image, other in zip(found, expected, strict=True))


def test_scenes_of_shapes_without_objects_have_the_same_images():
    scenes = ShapeScenes.of("test", 2)
    scene = scenes.without_objects(1)
    assert torch.equal(scene.image, scenes[1].image)
    assert (len(scene.boxes), len(scene.labels), len(scene.masks)) == (0, 0, 0)


def test_test_images_are_divided_among_processes_into_equally_many_batches():
    scenes = ShapeScenes.of("test", 5)
    parts = [list(TestScenes(scenes, 4, None, CPU, Part(rank, 2))) for rank in (0, 1)]
    assert [len(part) for part in parts] == [2, 2]
    assert sorted(i for part in parts for _, indices in part for i in indices) == [0, 1, 2, 3, 4]


def test_an_image_that_breaks_during_training_is_named(folder):
    scenes = load(folder).train
    (folder / "train2017" / f"{12:012}.jpg").write_bytes(b"no picture")
    with pytest.raises(LocalslError, match=r"000000000012\.jpg cannot be read"):
        list(TrainScenes(scenes, 2, False, 0, CPU).epoch(0, 1))


def test_generated_shapes_are_reproducible_and_their_boxes_enclose_their_masks():
    kinds = []
    for index in range(40):
        scene, again = shapes.scene("train", index), shapes.scene("train", index)
        assert torch.equal(scene.image, again.image)
        assert int(scene.masks.sum(0).max()) == 1  # every pixel belongs to at most one object
        for box, mask in zip(scene.boxes.int().tolist(), scene.masks, strict=True):
            left, top, right, bottom = box
            assert mask[top:bottom, left:right].sum() == mask.sum() > 0
            edges = (mask[top], mask[bottom - 1], mask[:, left], mask[:, right - 1])
            assert all(edge.any() for edge in edges)
        kinds += scene.labels.tolist()
    assert set(kinds) == {1, 2, 3}
    assert not torch.equal(shapes.scene("train", 0).image, shapes.scene("test", 0).image)


def test_shapes_for_classification_can_be_held_out_of_training():
    undivided, divided = (
        loading.load(compose(["dataset=shapes", "dataset.train_subset=60", *more]))
        for more in (["dataset.validation=0"], ["dataset.validation=45"])
    )
    assert undivided.validation is None
    assert isinstance(divided.validation, Split)
    assert divided.validation.targets.bincount().tolist() == [15, 15, 15]
    trained = {image.numpy().tobytes() for image in divided.train.images}
    held_out = {image.numpy().tobytes() for image in divided.validation.images}
    assert (len(trained), len(held_out)) == (60, 45)
    assert not trained & held_out


def test_the_default_of_no_validation_images_leaves_the_ids_of_runs_on_shapes():
    plain = ["dataset=shapes", "backbone=resnet10", "K=5", "seed=0"]
    assert run_id(compose(plain)) == run_id(compose([*plain, "dataset.validation=0"])) == "dc7a1619"
    assert run_id(compose([*plain, "dataset.validation=45"])) != "dc7a1619"


def test_shapes_for_classification_are_balanced():
    test = shapes.classified("test")
    assert test.images.shape == (150, 3, 64, 64)
    assert test.targets.bincount().tolist() == [50, 50, 50]
