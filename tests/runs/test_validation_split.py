"""Images held out of training, and the epoch that they choose."""

from dataclasses import asdict

import pytest
import torch

from localsl import data
from localsl.config import ConfigError, compose
from localsl.data import stratified
from localsl.data.pictures import Pictures
from localsl.data.splits import Split
from localsl.measure.records import cost_id
from localsl.runs import classification, epochs, experiment, identity, stored
from localsl.runs.identity import run_directory, run_id
from localsl.tables import records
from tests.helpers.runs import TINY, assert_same, columns, left_by, run_until_sigterm


def test_each_class_contributes_in_proportion_to_its_size():
    sizes = [500, 300, 150, 40, 9, 1]
    targets = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    targets = targets[torch.randperm(1000, generator=torch.Generator().manual_seed(3))]
    chosen = stratified(targets, 100)
    assert len(chosen.unique()) == 100
    for label, size in enumerate(sizes):
        assert abs(int((targets[chosen] == label).sum()) - size / 10) < 1
    assert torch.equal(chosen, stratified(targets, 100))


def test_of_classes_of_one_size_it_is_balanced():
    targets = torch.arange(10).repeat(5000)
    assert targets[stratified(targets, 5000)].bincount().tolist() == [500] * 10


def whole(split):
    """Each of its images as bytes, which tell it from others; of pictures on disk their names."""
    if isinstance(split, Pictures):
        return [split.name(index) for index in range(len(split))]
    return [image.numpy().tobytes() for image in split.images]


def assert_parted(parted, undivided, count):
    assert parted.validation is not None
    assert len(parted.validation) == count
    assert sorted(whole(parted.train) + whole(parted.validation)) == sorted(whole(undivided.train))
    assert whole(parted.test) == whole(undivided.test)


def test_digits():
    undivided = data.load(compose())
    assert undivided.validation is None
    parted = data.load(compose(["dataset.validation=143", "seed=1"]))
    assert_parted(parted, undivided, 143)
    again = data.load(compose(["dataset.validation=143", "seed=2", "dataset.train_subset=200"]))
    assert len(again.train) == 200
    assert whole(again.validation) == whole(parted.validation)
    assert set(whole(again.train)) <= set(whole(parted.train))


@pytest.mark.parametrize(("crop", "kind"), [("padded", Split), ("resized", Pictures)])
def test_folders(crop, kind, pictures):
    typed = ["dataset=imagefolder", f"dataset.root={pictures}", f"dataset.crop={crop}", "dataset.image_size=32"]
    parted = data.load(compose([*typed, "dataset.validation=2", "batch_size=4"]))
    assert isinstance(parted.validation, kind)
    assert_parted(parted, data.load(compose([*typed, "batch_size=4"])), 2)
    assert parted.validation.targets.tolist() == [0, 1]


@pytest.mark.slow
def test_cifar10(real_cifar10):
    typed = ["dataset=cifar10", f"data_dir={real_cifar10}"]
    parted = data.load(compose([*typed, "dataset.validation=5000"]))
    assert (len(parted.train), len(parted.test)) == (45000, 10000)
    assert parted.validation is not None
    assert parted.validation.targets.bincount().tolist() == [500] * 10


@pytest.mark.parametrize("count", ["1438", "-1", "100000"])
def test_numbers_that_leave_nothing_to_train_on(count):
    with pytest.raises(ConfigError) as error:
        compose([f"dataset.validation={count}"])
    assert [problem.key for problem in error.value.problems] == ["dataset.validation"]


def test_a_class_that_would_be_lost(pictures):
    typed = ["dataset=imagefolder", f"dataset.root={pictures}", "dataset.crop=padded", "dataset.image_size=32"]
    for picture in sorted((pictures / "train" / "dogs").iterdir())[1:]:
        picture.unlink()
    with pytest.raises(ConfigError, match="leaves no image of class 1"):
        data.load(compose([*typed, "dataset.validation=3", "batch_size=4"]))


def test_only_a_split_that_is_there_makes_another_run():
    plain, parted = compose(), compose(["dataset.validation=143"])
    assert run_id(plain) == run_id(compose(["dataset.validation=0"])) != run_id(parted)
    values = asdict(plain)
    del values["dataset"]["validation"]  # as recorded before the field joined
    assert identity.digest(identity.identity(values)) == run_id(plain)
    assert cost_id(plain) == cost_id(parted)
    assert records.signature(plain) == records.signature(parted)


def test_a_run_records_the_epoch_that_the_split_chooses(capsys):
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
    figures = [{"epoch": epoch, "a": value} for epoch, value in enumerate([10.0, 30.0, 30.0, 20.0], 1)]
    best = None
    for last in figures:
        best = epochs.better(best, last, "a")
    assert best == figures[1]


def test_a_run_without_a_split_has_no_word_of_it():
    cfg = compose(TINY)
    record = experiment.run(cfg)
    assert "selected" not in record
    assert "validation_accuracy" not in columns(run_directory(cfg) / "metrics.csv")


def test_a_run_stopped_while_it_validates_goes_on_bit_for_bit():
    typed = [*TINY, "dataset.validation=30"]
    straight, stopped = (compose([*typed, f"output_dir={name}"]) for name in ("straight", "stopped"))
    experiment.run(straight)
    run_until_sigterm(stopped, classification, "evaluate", 4)  # the validation of the second epoch
    experiment.run(stopped)
    assert_same(left_by(stopped), left_by(straight))
    record = stored.read_record(stopped)
    assert record is not None
    assert record["selected"] is not None
