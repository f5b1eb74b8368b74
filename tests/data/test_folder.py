"""Class folders: which files count, what a folder that is laid out otherwise is told, and whose run it is."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from localsl import data
from localsl.config import ConfigError, compose
from localsl.data import folder as folders
from localsl.data import sources
from localsl.runs import experiment
from localsl.runs.identity import run_id
from tests.helpers.pictures import typed


def noise(file, seed, size=(12, 12)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(file)


def refused(root, *words):
    with pytest.raises(ConfigError) as error:
        typed(root)
    for word in words:
        assert word in str(error.value)
    return str(error.value)


def test_another_fold_is_another_run(tmp_path):
    """With the same classes, and as many files of each."""
    for fold in range(2):
        for part in ("train", "val"):
            for name in ("cats", "dogs"):
                for i in range(3):
                    noise(tmp_path / f"fold{fold}" / part / name / f"{fold}-{i}.png", i)
    one, other = (typed(tmp_path / f"fold{fold}") for fold in range(2))
    assert (one.dataset.classes, one.dataset.files) == (other.dataset.classes, other.dataset.files)
    assert run_id(one) != run_id(other)


def test_other_sizes_and_other_classes_are_another_run(folder):
    ids = [run_id(typed(folder))]
    cats, dogs = folder / "train" / "cats", folder / "train" / "dogs"
    (cats / "0.png").write_bytes((cats / "0.png").read_bytes() + b"more")
    ids.append(run_id(typed(folder)))
    (cats / "2.png").rename(dogs / "cat.png")
    ids.append(run_id(typed(folder)))
    assert len(set(ids)) == 3


def test_a_copy_is_the_same_run(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    assert run_id(typed(tmp_path / "copy")) == run_id(typed(folder))


def test_what_is_left_out_decides_who_a_run_is(folder):
    """A repaired folder is another run, although no size changed; a broken file that is added is none."""
    skip = "dataset.skip_broken=true"
    whole = run_id(typed(folder, skip))
    picture = folder / "train" / "cats" / "0.png"
    content = picture.read_bytes()
    picture.write_bytes(bytes(len(content)))
    broken = typed(folder, skip)
    assert broken.dataset.files == [18, 5]
    assert run_id(broken) != whole
    (folder / "train" / "dogs" / "notes.txt").write_text("no picture")
    assert run_id(typed(folder, skip)) == run_id(broken)
    picture.write_bytes(content)
    assert run_id(typed(folder, skip)) == whole


def test_a_part_of_imagenet_is_known_by_its_files(folder, monkeypatch):
    line = ["dataset=imagenet", "backbone=resnet34", "K=17", "schedule=paper"]
    published = run_id(compose(line))
    here = compose([*line, f"dataset.root={folder}"])
    assert here.dataset.files == [19, 5]
    (folder / "train" / "cats" / "0.png").rename(folder / "train" / "cats" / "00.png")
    assert len({published, run_id(here), run_id(compose([*line, f"dataset.root={folder}"]))}) == 3
    monkeypatch.setitem(sources.PUBLISHED, "imagenet", (19, 5))
    assert run_id(compose([*line, f"dataset.root={folder}"])) == published


def test_pictures_that_changed_since_the_check_are_told(folder):
    cfg = typed(folder)
    (folder / "train" / "cats" / "0.png").rename(folder / "train" / "cats" / "00.png")
    with pytest.raises(ConfigError, match="does not hold the pictures that this run was configured with"):
        data.load(cfg)


def test_a_sweep_looks_at_a_folder_once(folder, monkeypatch):
    looked, real = [], folders.listed
    monkeypatch.setattr(folders, "listed", lambda *a: looked.append(1) or real(*a))
    from localsl.cli.command_line import check_command_line

    line = ["dataset=imagefolder", f"dataset.root={folder}", "dataset.image_size=16", "seed=1,2,3"]
    check_command_line(["-m", *line])
    assert looked == [1]


def test_a_link_into_itself_counts_nothing_twice(folder):
    cats = folder / "train" / "cats"
    (cats / "again").symlink_to(cats)
    (cats / "above").symlink_to(folder / "train")
    (cats / "more").mkdir()
    noise(cats / "more" / "a.png", 1)
    (cats / "twice").symlink_to(cats / "more")
    assert typed(folder).dataset.files == [20, 5]


@pytest.mark.parametrize("target", ["train", ""])
def test_a_class_that_is_a_link_to_what_it_lies_in_has_no_pictures(folder, target):
    (folder / "train" / "loop").symlink_to(folder / target)
    refused(folder, "no pictures of loop")


def test_a_class_that_is_a_link_to_nowhere_is_told(folder):
    (folder / "train" / "owls").symlink_to("/nowhere")
    refused(folder, "train/owls is a broken link")


@pytest.mark.parametrize("place", ["train", "train/cats", "val/dogs", "train/cats/more"])
def test_a_folder_that_cannot_be_read_is_told(folder, place, monkeypatch):
    (folder / "train" / "cats" / "more").mkdir()
    real = os.scandir

    def scandir(path):
        if Path(path) == folder / place:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(folder, f"{folder / place} cannot be read (Permission denied)")


def test_pipes_are_no_pictures(folder):
    os.mkfifo(folder / "train" / "cats" / "pipe")
    assert len(data.load(typed(folder)).train) == 19


@pytest.mark.parametrize(("part", "count"), [("train", 19), ("val", 5)])
def test_pictures_without_class_folders_are_counted(folder, part, count):
    """As in ImageNet's val/ when it is downloaded."""
    files = [file for file in (folder / part).rglob("*") if file.is_file()]
    for index, file in enumerate(files):
        file.rename(folder / part / f"{index}{file.suffix}")
    for name in ("cats", "dogs"):
        (folder / part / name).rmdir()
    refused(folder, f"{part} holds {count} files and no class folders; put pictures into {part}/<class>/")


@pytest.mark.parametrize("parts", [["train"], ["train", "val"]])
def test_a_folder_around_the_classes_is_named(folder, parts):
    for part in parts:
        (folder / part).rename(folder / "moved")
        (folder / part).mkdir()
        (folder / "moved").rename(folder / part / "images")
    refused(folder, "holds one folder, images, with the folders cats, dogs in it")


def test_a_folder_around_the_test_classes_is_named(folder):
    (folder / "val").rename(folder / "moved")
    (folder / "val").mkdir()
    (folder / "moved").rename(folder / "val" / "val")
    refused(folder, "lacks: val", "val holds the folders cats, dogs: move these up")


def test_an_unlabelled_test_folder_stands_back(folder):
    """As Kaggle packs it: test/test/*.jpg."""
    noise(folder / "test" / "test" / "1.png", 1)
    assert typed(folder).dataset.files == [19, 5]
    (folder / "test" / "cats").mkdir()
    assert typed(folder).dataset.files == [19, 5]
    noise(folder / "test" / "cats" / "1.png", 1)
    refused(folder, "test has classes that", "lacks: test")


@pytest.mark.parametrize("below", ["..", "train"])
def test_the_folder_that_was_meant_is_named(folder, below):
    refused(folder / below, f"type dataset.root={folder.resolve() if below == '..' else folder}")


def test_what_lies_beside_class_folders_is_told(folder, capsys):
    noise(folder / "train" / "stray.png", 1)
    assert len(data.load(typed(folder)).train) == 19
    told = capsys.readouterr().err
    assert "ignoring 1 file beside the class folders, such as" in told
    assert "train/stray.png" in told


def test_a_run_of_another_fold_does_not_go_on_from_the_first(folder, capsys):
    more = ["schedule.epochs=2", "schedule.warmup_epochs=0", "batch_size=5"]
    experiment.run(typed(folder, *more))
    (folder / "train" / "cats" / "0.png").rename(folder / "train" / "cats" / "other.png")
    capsys.readouterr()
    experiment.run(typed(folder, *more))
    told = capsys.readouterr().out
    assert "This run is done" not in told
    assert "resuming after" not in told
