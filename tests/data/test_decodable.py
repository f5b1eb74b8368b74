"""Files that cannot be decoded are all reported before training, or left out on request."""

import json
import os
import shutil

import pytest

from localsl.config import ConfigError
from localsl.data import decodable, loading
from localsl.data.pictures import Pictures
from localsl.runs import experiment
from tests.helpers.pictures import folder_config


def break_four(folder):
    """Add or make four broken files: a truncated JPEG and PNG, a text, an empty file. Returns their names.

    Two more files are such as file managers leave; they are ignored.
    """
    cats, dogs = folder / "train" / "cats", folder / "train" / "dogs"
    for file in (cats / "3.JPEG", dogs / "2.png"):
        os.truncate(file, file.stat().st_size - 40)
    (dogs / "notes.txt").write_text("my dogs")
    (folder / "val" / "cats" / "empty.jpg").touch()
    (cats / "Thumbs.db").write_text("hidden")
    (cats / ".DS_Store").write_text("hidden")
    return ["train/cats/3.JPEG", "train/dogs/2.png", "train/dogs/notes.txt", "val/cats/empty.jpg"]


def test_all_broken_files_are_reported_before_training(folder, monkeypatch):
    names = break_four(folder)
    monkeypatch.setattr(experiment, "_train", lambda *_: pytest.fail("trained"))
    with pytest.raises(ConfigError, match="4 of 26 files cannot be decoded") as error:
        experiment.run(folder_config(folder))
    (problem,) = error.value.problems
    assert problem.key == "dataset.root"
    assert "dataset.skip_broken=true" in problem.instead
    assert all(name in problem.allowed for name in names)


def test_at_most_ten_broken_files_are_named(folder):
    for i in range(13):
        (folder / "train" / "dogs" / f"x{i:02d}").touch()
    with pytest.raises(ConfigError, match=r"13 of 37 files.*x09 \(.*\) and 3 more") as error:
        loading.load(folder_config(folder))
    assert "x10" not in str(error.value)


def test_broken_files_can_be_left_out(folder, capsys):
    break_four(folder)
    cfg = folder_config(folder, "dataset.skip_broken=true", "schedule.epochs=1", "batch_size=5")
    loaded = loading.load(cfg)
    assert (len(loaded.train), len(loaded.test)) == (17, 5)
    errors = capsys.readouterr().err
    assert "warning: 4 of 26 files cannot be decoded: train/cats/3.JPEG" in errors
    assert "train/dogs/notes.txt (not a picture)" in errors
    assert not any("notes" in loaded.train.name(i) for i in range(17))
    record = experiment.run(cfg)
    assert record is not None
    assert record["images"] == {"train": 17, "test": 5}
    padded = folder_config(folder, "dataset.skip_broken=true", "dataset.crop=padded", "batch_size=5")
    assert len(loading.load(padded).train) == 17


@pytest.fixture
def checked(monkeypatch):
    """A list that receives the number of pictures of every split that is checked."""
    counts, real = [], decodable._check_all
    monkeypatch.setattr(decodable, "_check_all", lambda split: counts.append(len(split)) or real(split))
    return counts


def test_a_check_is_cached_until_a_file_changes(folder, tmp_path, checked):
    loading.load(folder_config(folder))
    loading.load(folder_config(folder, "dataset.image_size=8"))
    assert checked == [19, 5]
    (cache,) = (tmp_path / "data" / "checked").glob("*.json")
    assert json.loads(cache.read_text()) == [{}, {}]
    cache.write_text("half of a")
    loading.load(folder_config(folder))
    assert checked == [19, 5] * 2
    broken = folder / "train" / "cats" / "0.png"
    os.truncate(broken, 100)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"cats/0\.png"):
            loading.load(folder_config(folder))
    assert checked == [19, 5] * 3


def test_a_check_that_cannot_be_cached_is_made_and_reported_once_in_a_process(
    folder, tmp_path, checked, capsys
):
    (tmp_path / "file").touch()
    for _ in range(2):
        assert len(loading.load(folder_config(folder, f"data_dir={tmp_path}/file/below")).train) == 19
    assert checked == [19, 5]
    errors = capsys.readouterr().err
    assert errors.count(f"cannot write to data_dir={tmp_path}/file/below (Not a directory)") == 1


def test_a_picture_that_is_repaired_with_its_old_size_and_time_is_checked_again(folder):
    picture = folder / "train" / "cats" / "0.png"
    status, content = picture.stat(), picture.read_bytes()
    for written in (content, bytes(len(content)), content):
        picture.write_bytes(written)
        os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
        if written == content:
            assert len(loading.load(folder_config(folder)).train) == 19
        else:
            with pytest.raises(ConfigError, match=r"cats/0\.png \(not a picture\)"):
                loading.load(folder_config(folder))


def test_a_file_that_becomes_readable_is_no_longer_reported(folder, monkeypatch):
    real = Pictures.opened

    def opened(self, index):
        if self.name(index) == "train/dogs/4.png":
            raise PermissionError(13, "Permission denied")
        return real(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Pictures, "opened", opened)
        with pytest.raises(ConfigError, match=r"dogs/4\.png \(.*Permission denied\)"):
            loading.load(folder_config(folder))
    assert len(loading.load(folder_config(folder)).train) == 19


def test_a_copy_of_a_folder_is_checked_again(folder, tmp_path):
    """Equal names, sizes and times of the files do not make the copy share the cached check."""
    loading.load(folder_config(folder))
    shutil.copytree(folder, tmp_path / "copy")
    loading.load(folder_config(tmp_path / "copy"))
    assert len(list((tmp_path / "data" / "checked").glob("*.json"))) == 2
