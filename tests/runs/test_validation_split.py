"""Images held out of training, and the epoch with the best accuracy on them."""

from dataclasses import asdict

import pytest
import torch

from localsl.config import ConfigError, compose
from localsl.data import loading
from localsl.data.loading import stratified
from localsl.data.pictures import Pictures
from localsl.data.splits import Split
from localsl.measure.records import cost_id
from localsl.runs import classification, epochs, experiment, identity, stored
from localsl.runs.identity import run_directory, run_id
from localsl.tables import records
from tests.helpers.config import problems
from tests.helpers.runs import TINY, assert_same, columns, left_by, run_until_sigterm


def test_a_stratified_choice_takes_every_class_in_proportion_to_its_size():
    sizes = [500, 300, 150, 40, 9, 1]
    targets = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    targets = targets[torch.randperm(1000, generator=torch.Generator().manual_seed(3))]
    chosen = stratified(targets, 100)
    assert len(chosen.unique()) == 100
    for label, size in enumerate(sizes):
        assert abs(int((targets[chosen] == label).sum()) - size / 10) < 1
    assert torch.equal(chosen, stratified(targets, 100))


def test_a_stratified_choice_of_equal_classes_is_balanced():
    targets = torch.arange(10).repeat(5000)
    assert targets[stratified(targets, 5000)].bincount().tolist() == [500] * 10


def identified(split):
    """Something that identifies each image: its bytes, or its name if it is on disk."""
    if isinstance(split, Pictures):
        return [split.name(index) for index in range(len(split))]
    return [image.numpy().tobytes() for image in split.images]


def assert_divided(divided, undivided, count):
    """`divided` holds out `count` of the training images of `undivided`, and its test split is the same."""
    assert divided.validation is not None
    assert len(divided.validation) == count
    assert sorted(identified(divided.train) + identified(divided.validation)) == sorted(
        identified(undivided.train)
    )
    assert identified(divided.test) == identified(undivided.test)


def test_the_validation_split_of_the_digits_depends_on_neither_the_seed_nor_a_subset():
    undivided = loading.load(compose())
    assert undivided.validation is None
    divided = loading.load(compose(["dataset.validation=143", "seed=1"]))
    assert_divided(divided, undivided, 143)
    subset = loading.load(compose(["dataset.validation=143", "seed=2", "dataset.train_subset=200"]))
    assert len(subset.train) == 200
    assert identified(subset.validation) == identified(divided.validation)
    assert set(identified(subset.train)) <= set(identified(divided.train))


@pytest.mark.parametrize(("crop", "kind"), [("padded", Split), ("resized", Pictures)])
def test_a_folder_of_pictures_is_divided(crop, kind, pictures):
    overrides = [
        "dataset=imagefolder",
        f"dataset.root={pictures}",
        f"dataset.crop={crop}",
        "dataset.image_size=32",
    ]
    divided = loading.load(compose([*overrides, "dataset.validation=2", "batch_size=4"]))
    assert isinstance(divided.validation, kind)
    assert_divided(divided, loading.load(compose([*overrides, "batch_size=4"])), 2)
    assert divided.validation.targets.tolist() == [0, 1]


@pytest.mark.slow
def test_cifar10_is_divided_into_balanced_splits(real_cifar10):
    overrides = ["dataset=cifar10", f"data_dir={real_cifar10}"]
    divided = loading.load(compose([*overrides, "dataset.validation=5000"]))
    assert (len(divided.train), len(divided.test)) == (45000, 10000)
    assert divided.validation is not None
    assert divided.validation.targets.bincount().tolist() == [500] * 10


@pytest.mark.parametrize("count", ["1438", "-1", "100000"])
def test_validation_splits_of_impossible_sizes_are_refused(count):
    assert [problem.key for problem in problems(f"dataset.validation={count}")] == ["dataset.validation"]


def test_a_split_that_leaves_a_class_without_images_is_refused(pictures):
    overrides = [
        "dataset=imagefolder",
        f"dataset.root={pictures}",
        "dataset.crop=padded",
        "dataset.image_size=32",
    ]
    for picture in sorted((pictures / "train" / "dogs").iterdir())[1:]:
        picture.unlink()
    with pytest.raises(ConfigError, match="leaves no image of class 1"):
        loading.load(compose([*overrides, "dataset.validation=3", "batch_size=4"]))


def test_only_a_validation_split_with_images_makes_another_run():
    plain, divided = compose(), compose(["dataset.validation=143"])
    assert run_id(plain) == run_id(compose(["dataset.validation=0"])) != run_id(divided)
    values = asdict(plain)
    del values["dataset"]["validation"]  # as in records from before this field existed
    assert identity.digest(identity.identity(values)) == run_id(plain)
    assert cost_id(plain) == cost_id(divided)
    assert records.signature(plain) == records.signature(divided)


def test_a_run_records_the_epoch_with_the_best_validation_accuracy(capsys):
    cfg = compose([*TINY, "dataset.validation=30"])
    record = experiment.run(cfg)
    rows = columns(run_directory(cfg) / "metrics.csv")
    assert record["images"] == {"train": 50, "test": 20, "validation": 30}
    accuracies = [float(value) for value in rows["validation_accuracy"]]
    assert all(round(value * 30 / 100, 6).is_integer() for value in accuracies)
    chosen = accuracies.index(max(accuracies))
    selected = record["selected"]
    assert selected["epoch"] == chosen + 1
    assert selected["test_accuracy"] == float(rows["test_accuracy"][chosen])
    assert selected["validation_loss"] == float(rows["validation_loss"][chosen])
    assert f"at the epoch with the best validation accuracy ({chosen + 1}, " in capsys.readouterr().out


def test_the_earlier_of_equal_epochs_is_chosen():
    rows = [{"epoch": epoch, "a": value} for epoch, value in enumerate([10.0, 30.0, 30.0, 20.0], 1)]
    best = None
    for row in rows:
        best = epochs.better(best, row, "a")
    assert best == rows[1]


def test_a_run_without_a_validation_split_records_nothing_of_one():
    cfg = compose(TINY)
    record = experiment.run(cfg)
    assert "selected" not in record
    assert "validation_accuracy" not in columns(run_directory(cfg) / "metrics.csv")


def test_a_run_stopped_in_its_validation_resumes_bit_for_bit():
    overrides = [*TINY, "dataset.validation=30"]
    straight, stopped = (compose([*overrides, f"output_dir={name}"]) for name in ("straight", "stopped"))
    experiment.run(straight)
    run_until_sigterm(stopped, classification, "evaluate", 4)  # the validation of the second epoch
    experiment.run(stopped)
    assert_same(left_by(stopped), left_by(straight))
    record = stored.read_record(stopped)
    assert record is not None
    assert record["selected"] is not None
