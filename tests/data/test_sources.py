"""Data sets are loaded as published, and missing or invalid ones are refused with a helpful message."""

from urllib.error import URLError

import pytest
import torch
from sklearn.datasets import load_digits

from localsl.config import ConfigError, compose
from localsl.data import loading
from localsl.data.loading import balanced
from localsl.data.splits import Split
from localsl.runs.identity import run_id
from tests.helpers.config import problems
from tests.helpers.data import stl10_folder


def test_digits_are_those_of_scikit_learn():
    original = load_digits()
    loaded = loading.load(compose())
    assert len(loaded.train) + len(loaded.test) == 1797
    images = torch.cat([loaded.train.images, loaded.test.images])
    assert images.shape == (1797, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert torch.equal(images[:, 0], images[:, 2])
    found = sorted((images[:, 0].double() * 16 / 255).round().flatten(1).tolist())
    assert found == sorted(original.images.reshape(1797, 64).tolist())
    labels = torch.cat([loaded.train.targets, loaded.test.targets])
    assert torch.equal(labels.bincount(), torch.from_numpy(original.target).bincount())


def test_the_split_of_the_digits_is_fixed_and_stratified():
    first, second = loading.load(compose(["seed=1"])), loading.load(compose(["seed=2"]))
    assert torch.equal(first.test.images, second.test.images)
    assert first.test.targets.bincount().tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]


def test_digits_are_normalised_by_their_own_statistics():
    cfg = compose()
    pixels = loading.load(cfg).train.images.float()
    assert float(pixels.mean()) == pytest.approx(cfg.dataset.mean[0], abs=0.1)
    assert float(pixels.std()) == pytest.approx(cfg.dataset.std[0], abs=0.1)


def test_subsets_are_balanced_and_the_same_for_every_seed():
    cfg = compose(["dataset.train_subset=103", "dataset.test_subset=20"])
    loaded = loading.load(cfg)
    counts = loaded.train.targets.bincount()
    assert (len(loaded.train), len(loaded.test)) == (103, 20)
    assert int(counts.max() - counts.min()) == 1
    other_seed = loading.load(compose(["dataset.train_subset=103", "seed=5"]))
    assert torch.equal(loaded.train.images, other_seed.train.images)


@pytest.mark.parametrize(
    ("override", "key"),
    [("dataset.train_subset=1438", "dataset.train_subset"), ("batch_size=1437", "batch_size")],
)
def test_a_subset_or_batch_larger_than_the_data_is_refused(override, key):
    with pytest.raises(ConfigError) as error:
        loading.load(compose([override]))
    assert [problem.key for problem in error.value.problems] == [key]


def test_balanced_subsets_need_enough_images_of_every_class():
    targets = torch.tensor([0, 1, 1, 2, 2, 2])
    assert targets[balanced(targets, 3)].bincount().tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="class 0 has 1 images, and 2 are needed"):
        balanced(targets, 4)


def test_images_are_resized_to_the_configured_size():
    images = loading.load(compose(["dataset.image_size=12"])).test.images
    assert images.shape[2:] == (12, 12)
    assert images.dtype == torch.uint8


@pytest.mark.parametrize(
    ("images", "targets", "words"),
    [
        (torch.zeros(3, 3, 8, 8), torch.zeros(3), "not uint8"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3), "of shape"),
        (torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.zeros(2), "3 images and 2 labels"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.zeros(0), "0 images"),
        (
            torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
            torch.tensor([0, 10]),
            "labels run from 0 to 10",
        ),
        (
            torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
            torch.tensor([-1, 3]),
            "labels run from -1 to 3",
        ),
    ],
)
def test_invalid_images_and_labels_are_refused(images, targets, words):
    with pytest.raises(ConfigError, match=words):
        loading.check(Split(images, targets.long()), "train", compose().dataset)


@pytest.mark.parametrize("name", ["cifar10", "svhn", "stl10"])
def test_missing_data_that_cannot_be_downloaded_are_reported(name, tmp_path, monkeypatch):
    def unreachable(*_args, **_kwargs):
        raise URLError("Name or service not known")

    for module in ("cifar", "svhn", "stl10"):
        for function in ("download_and_extract_archive", "download_url"):
            monkeypatch.setattr(f"torchvision.datasets.{module}.{function}", unreachable, raising=False)
    monkeypatch.setattr("torchvision.datasets.utils.download_url", unreachable)
    monkeypatch.setenv("LOCALSL_DATA", str(tmp_path / "images"))
    with pytest.raises(ConfigError) as error:
        loading.load(compose([f"dataset={name}"]))
    (problem,) = error.value.problems
    assert problem.key == "dataset"
    for word in (str(tmp_path / "images"), "LOCALSL_DATA", "put "):
        assert word in str(problem)


def test_stl10_with_fewer_images_is_accepted_with_a_warning_and_is_another_run(tmp_path, capsys):
    stl10_folder(tmp_path)
    loaded = loading.load(compose(["dataset=stl10", f"data_dir={tmp_path}"]))
    assert loaded.train.images.shape == (40, 3, 96, 96)
    assert loaded.test.targets.tolist() == [*range(10)] * 2
    assert "40 training and 20 test images" in capsys.readouterr().err
    small = compose(["dataset=stl10", f"data_dir={tmp_path}"])
    assert small.dataset.files == [40, 20]
    assert run_id(small) != run_id(compose(["dataset=stl10"]))


PADDED = ["dataset=imagefolder", "dataset.crop=padded", "dataset.image_size=32"]


def test_a_folder_of_pictures_is_read_with_its_classes(pictures):
    cfg = compose([*PADDED, f"dataset.root={pictures}", "dataset.image_size=16"])
    assert (cfg.dataset.num_classes, cfg.dataset.classes, cfg.dataset.files) == (
        2,
        ["cats", "dogs"],
        [6, 4],
    )
    loaded = loading.load(cfg)
    assert loaded.train.images.shape == (6, 3, 16, 16)
    assert loaded.test.targets.tolist() == [0, 0, 1, 1]


def test_a_folder_that_moved_is_the_same_run_unless_its_files_change(pictures, tmp_path_factory):
    moved = tmp_path_factory.mktemp("moved") / "pictures"
    before = run_id(compose(["dataset=imagefolder", f"dataset.root={pictures}"]))
    pictures.rename(moved)
    assert run_id(compose(["dataset=imagefolder", f"dataset.root={moved}"])) == before
    (moved / "train" / "cats" / "0.png").unlink()
    assert run_id(compose(["dataset=imagefolder", f"dataset.root={moved}"])) != before


def test_a_broken_picture_is_named(pictures):
    (pictures / "train" / "dogs" / "1.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"1 of 10 files cannot be decoded: train/dogs/1\.png"):
        loading.load(compose([*PADDED, f"dataset.root={pictures}"]))


@pytest.mark.parametrize(
    ("made", "words"),
    [("test/owls", "lacks: owls"), ("train/owls", "no pictures of owls"), ("train/.hidden", None)],
)
def test_class_folders_must_match(pictures, made, words):
    (pictures / made).mkdir()
    overrides = ["dataset=imagefolder", f"dataset.root={pictures}"]
    if words is None:
        assert compose(overrides).dataset.classes == ["cats", "dogs"]
    else:
        (problem,) = problems(*overrides)
        assert words in str(problem)


def test_a_missing_folder_is_reported():
    with pytest.raises(ConfigError, match="no such folder"):
        compose(["dataset=imagefolder", "dataset.root=nowhere"])
