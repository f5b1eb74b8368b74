"""Class folders: which files count, which layouts are refused, and how the files enter a run's identity."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from localsl.cli.command_line import check_command_line
from localsl.config import ConfigError, compose
from localsl.data import folder as folders
from localsl.data import loading, sources
from localsl.runs import experiment
from localsl.runs.identity import run_id
from tests.helpers.pictures import folder_config


def write_noise(file, seed):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(file)


def assert_refused(root, *words):
    """The folder is refused with a message that has these words."""
    with pytest.raises(ConfigError) as error:
        folder_config(root)
    for word in words:
        assert word in str(error.value)


def test_another_fold_is_another_run(tmp_path):
    """Both folds have the same classes and as many files of each."""
    for fold in range(2):
        for part in ("train", "val"):
            for name in ("cats", "dogs"):
                for i in range(3):
                    write_noise(tmp_path / f"fold{fold}" / part / name / f"{fold}-{i}.png", i)
    first, second = (folder_config(tmp_path / f"fold{fold}") for fold in range(2))
    assert (first.dataset.classes, first.dataset.files) == (second.dataset.classes, second.dataset.files)
    assert run_id(first) != run_id(second)


def test_another_file_size_or_class_is_another_run(folder):
    ids = [run_id(folder_config(folder))]
    cats, dogs = folder / "train" / "cats", folder / "train" / "dogs"
    (cats / "0.png").write_bytes((cats / "0.png").read_bytes() + b"more")
    ids.append(run_id(folder_config(folder)))
    (cats / "2.png").rename(dogs / "cat.png")
    ids.append(run_id(folder_config(folder)))
    assert len(set(ids)) == 3


def test_a_copy_is_the_same_run(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    assert run_id(folder_config(tmp_path / "copy")) == run_id(folder_config(folder))


def test_the_pictures_that_are_left_out_enter_the_identity(folder):
    """Repairing a picture gives another run although no size changed; adding a broken file does not."""
    skip = "dataset.skip_broken=true"
    whole = run_id(folder_config(folder, skip))
    picture = folder / "train" / "cats" / "0.png"
    content = picture.read_bytes()
    picture.write_bytes(bytes(len(content)))
    broken = folder_config(folder, skip)
    assert broken.dataset.files == [18, 5]
    assert run_id(broken) != whole
    (folder / "train" / "dogs" / "notes.txt").write_text("no picture")
    assert run_id(folder_config(folder, skip)) == run_id(broken)
    picture.write_bytes(content)
    assert run_id(folder_config(folder, skip)) == whole


def test_a_part_of_imagenet_is_identified_by_its_files(folder, monkeypatch):
    line = ["dataset=imagenet", "backbone=resnet34", "K=17", "schedule=paper"]
    published = run_id(compose(line))
    part = compose([*line, f"dataset.root={folder}"])
    assert part.dataset.files == [19, 5]
    (folder / "train" / "cats" / "0.png").rename(folder / "train" / "cats" / "00.png")
    renamed = compose([*line, f"dataset.root={folder}"])
    assert len({published, run_id(part), run_id(renamed)}) == 3
    monkeypatch.setitem(sources.PUBLISHED, "imagenet", (19, 5))
    assert run_id(compose([*line, f"dataset.root={folder}"])) == published


def test_pictures_that_changed_since_the_check_are_reported(folder):
    cfg = folder_config(folder)
    (folder / "train" / "cats" / "0.png").rename(folder / "train" / "cats" / "00.png")
    with pytest.raises(ConfigError, match="does not hold the pictures that this run was configured with"):
        loading.load(cfg)


def test_a_sweep_lists_a_folder_once(folder, monkeypatch):
    calls, real = [], folders.listed
    monkeypatch.setattr(folders, "listed", lambda *a: calls.append(1) or real(*a))
    line = ["dataset=imagefolder", f"dataset.root={folder}", "dataset.image_size=16", "seed=1,2,3"]
    check_command_line(["-m", *line])
    assert calls == [1]


def test_links_that_form_a_cycle_count_no_picture_twice(folder):
    cats = folder / "train" / "cats"
    (cats / "again").symlink_to(cats)
    (cats / "above").symlink_to(folder / "train")
    (cats / "more").mkdir()
    write_noise(cats / "more" / "a.png", 1)
    (cats / "twice").symlink_to(cats / "more")
    assert folder_config(folder).dataset.files == [20, 5]


@pytest.mark.parametrize("target", ["train", ""])
def test_a_class_that_is_a_link_to_a_parent_folder_has_no_pictures(folder, target):
    (folder / "train" / "loop").symlink_to(folder / target)
    assert_refused(folder, "no pictures of loop")


def test_a_class_that_is_a_broken_link_is_reported(folder):
    (folder / "train" / "owls").symlink_to("/nowhere")
    assert_refused(folder, "train/owls is a broken link")


@pytest.mark.parametrize("place", ["train", "train/cats", "val/dogs", "train/cats/more"])
def test_a_folder_that_cannot_be_read_is_reported(folder, place, monkeypatch):
    (folder / "train" / "cats" / "more").mkdir()
    real = os.scandir

    def scandir(path):
        if Path(path) == folder / place:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert_refused(folder, f"{folder / place} cannot be read (Permission denied)")


def test_named_pipes_are_not_pictures(folder):
    os.mkfifo(folder / "train" / "cats" / "pipe")
    assert len(loading.load(folder_config(folder)).train) == 19


@pytest.mark.parametrize(("part", "count"), [("train", 19), ("val", 5)])
def test_pictures_without_class_folders_are_counted(folder, part, count):
    """ImageNet's val/ is downloaded in this form."""
    files = [file for file in (folder / part).rglob("*") if file.is_file()]
    for index, file in enumerate(files):
        file.rename(folder / part / f"{index}{file.suffix}")
    for name in ("cats", "dogs"):
        (folder / part / name).rmdir()
    message = f"{part} holds {count} files and no class folders; put pictures into {part}/<class>/"
    assert_refused(folder, message)


@pytest.mark.parametrize("parts", [["train"], ["train", "val"]])
def test_an_extra_folder_around_the_classes_is_named(folder, parts):
    for part in parts:
        (folder / part).rename(folder / "moved")
        (folder / part).mkdir()
        (folder / "moved").rename(folder / part / "images")
    assert_refused(folder, "holds one folder, images, with the folders cats, dogs in it")


def test_an_extra_folder_around_the_test_classes_is_named(folder):
    (folder / "val").rename(folder / "moved")
    (folder / "val").mkdir()
    (folder / "moved").rename(folder / "val" / "val")
    assert_refused(folder, "lacks: val", "val holds the folders cats, dogs: move these up")


def test_val_is_used_where_test_has_no_labels(folder):
    """Kaggle packs unlabelled pictures as test/test/*.jpg."""
    write_noise(folder / "test" / "test" / "1.png", 1)
    assert folder_config(folder).dataset.files == [19, 5]
    (folder / "test" / "cats").mkdir()
    assert folder_config(folder).dataset.files == [19, 5]
    write_noise(folder / "test" / "cats" / "1.png", 1)
    assert_refused(folder, "test has classes that", "lacks: test")


@pytest.mark.parametrize("below", ["..", "train"])
def test_the_message_names_the_folder_that_was_probably_meant(folder, below):
    assert_refused(folder / below, f"type dataset.root={folder.resolve() if below == '..' else folder}")


def test_files_beside_class_folders_are_ignored_with_a_warning(folder, capsys):
    write_noise(folder / "train" / "stray.png", 1)
    assert len(loading.load(folder_config(folder)).train) == 19
    errors = capsys.readouterr().err
    assert "ignoring 1 file beside the class folders, such as" in errors
    assert "train/stray.png" in errors


def test_a_run_of_another_fold_does_not_resume_from_the_first(folder, capsys):
    more = ["schedule.epochs=2", "schedule.warmup_epochs=0", "batch_size=5"]
    experiment.run(folder_config(folder, *more))
    (folder / "train" / "cats" / "0.png").rename(folder / "train" / "cats" / "other.png")
    capsys.readouterr()
    experiment.run(folder_config(folder, *more))
    printed = capsys.readouterr().out
    assert "This run is done" not in printed
    assert "resuming after" not in printed
