"""Files that cannot be decoded: all are told before training, or left out."""

import json
import os
import shutil

import pytest

from localsl import data
from localsl.config import ConfigError
from localsl.data import decodable
from localsl.data.pictures import Pictures
from localsl.runs import experiment
from tests.helpers.pictures import typed


def break_four(folder):
    """A truncated JPEG and PNG, a text and an empty file; what file managers leave counts for nothing."""
    cats, dogs = folder / "train" / "cats", folder / "train" / "dogs"
    for file in (cats / "3.JPEG", dogs / "2.png"):
        os.truncate(file, file.stat().st_size - 40)
    (dogs / "notes.txt").write_text("my dogs")
    (folder / "val" / "cats" / "empty.jpg").touch()
    (cats / "Thumbs.db").write_text("hidden")
    (cats / ".DS_Store").write_text("hidden")
    return ["train/cats/3.JPEG", "train/dogs/2.png", "train/dogs/notes.txt", "val/cats/empty.jpg"]


def test_broken_files_are_all_told_before_training(folder, monkeypatch):
    names = break_four(folder)
    monkeypatch.setattr(experiment, "_train", lambda *_: pytest.fail("trained"))
    with pytest.raises(ConfigError, match="4 of 26 files cannot be decoded") as error:
        experiment.run(typed(folder))
    (problem,) = error.value.problems
    assert problem.key == "dataset.root"
    assert "dataset.skip_broken=true" in problem.instead
    assert all(name in problem.allowed for name in names)


def test_ten_broken_files_are_named(folder):
    for i in range(13):
        (folder / "train" / "dogs" / f"x{i:02d}").touch()
    with pytest.raises(ConfigError, match=r"13 of 37 files.*x09 \(.*\) and 3 more") as error:
        data.load(typed(folder))
    assert "x10" not in str(error.value)


def test_broken_files_can_be_left_out(folder, capsys):
    break_four(folder)
    cfg = typed(folder, "dataset.skip_broken=true", "schedule.epochs=1", "batch_size=5")
    loaded = data.load(cfg)
    assert (len(loaded.train), len(loaded.test)) == (17, 5)
    told = capsys.readouterr().err
    assert "warning: 4 of 26 files cannot be decoded: train/cats/3.JPEG" in told
    assert "train/dogs/notes.txt (not a picture)" in told
    assert not any("notes" in loaded.train.name(i) for i in range(17))
    record = experiment.run(cfg)
    assert record is not None
    assert record["images"] == {"train": 17, "test": 5}
    padded = typed(folder, "dataset.skip_broken=true", "dataset.crop=padded", "batch_size=5")
    assert len(data.load(padded).train) == 17


def test_a_check_is_remembered_until_a_file_changes(folder, tmp_path, monkeypatch):
    looked, real = [], decodable._check_all
    monkeypatch.setattr(decodable, "_check_all", lambda split: looked.append(len(split)) or real(split))
    data.load(typed(folder))
    data.load(typed(folder, "dataset.image_size=8"))
    assert looked == [19, 5]
    (kept,) = (tmp_path / "data" / "checked").glob("*.json")
    assert json.loads(kept.read_text()) == [{}, {}]
    kept.write_text("half of a")
    data.load(typed(folder))
    assert looked == [19, 5] * 2
    broken = folder / "train" / "cats" / "0.png"
    os.truncate(broken, 100)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"cats/0\.png"):
            data.load(typed(folder))
    assert looked == [19, 5] * 3


def test_a_check_that_cannot_be_remembered(folder, tmp_path, monkeypatch, capsys):
    """It is told, once, and not made more than once in a process."""
    looked, real = [], decodable._check_all
    monkeypatch.setattr(decodable, "_check_all", lambda split: looked.append(len(split)) or real(split))
    (tmp_path / "file").touch()
    for _ in range(2):
        assert len(data.load(typed(folder, f"data_dir={tmp_path}/file/below")).train) == 19
    assert looked == [19, 5]
    told = capsys.readouterr().err
    assert told.count(f"cannot write to data_dir={tmp_path}/file/below (Not a directory)") == 1


def test_a_picture_that_is_repaired_with_its_old_size_and_time_is_looked_at_again(folder):
    picture = folder / "train" / "cats" / "0.png"
    status, content = picture.stat(), picture.read_bytes()
    for written in (content, bytes(len(content)), content):
        picture.write_bytes(written)
        os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
        if written == content:
            assert len(data.load(typed(folder)).train) == 19
        else:
            with pytest.raises(ConfigError, match=r"cats/0\.png \(not a picture\)"):
                data.load(typed(folder))


def test_a_file_that_could_not_be_read_for_a_while_is_not_broken_for_ever(folder, monkeypatch):
    real = Pictures.opened

    def opened(self, index):
        if self.name(index) == "train/dogs/4.png":
            raise PermissionError(13, "Permission denied")
        return real(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Pictures, "opened", opened)
        with pytest.raises(ConfigError, match=r"dogs/4\.png \(.*Permission denied\)"):
            data.load(typed(folder))
    assert len(data.load(typed(folder)).train) == 19


def test_what_is_remembered_is_of_one_folder(folder, tmp_path):
    """A copy of equal names, sizes and times is looked at by itself."""
    data.load(typed(folder))
    shutil.copytree(folder, tmp_path / "copy")
    data.load(typed(tmp_path / "copy"))
    assert len(list((tmp_path / "data" / "checked").glob("*.json"))) == 2
