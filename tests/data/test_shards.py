"""Pictures in archives give the batches of the same pictures in folders; invalid archives are refused."""

import io
import os
import tarfile

import pytest
import torch

from localsl.config import ConfigError
from localsl.data import loading, shards
from localsl.runs.identity import run_id
from tests.helpers.pictures import assert_same_batches, epoch_batches, evaluation_batches, folder_config


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def packed(folder, root, flat=False):
    """Pack the pictures of a folder into two archives per split, in the same order."""
    for part, long_name in (("train", "train"), ("val", "validation")):
        files = [f for label in ("cats", "dogs") for f in sorted((folder / part / label).iterdir())]
        for number, half in enumerate((files[: len(files) // 2], files[len(files) // 2 :])):
            path = root / f"small-{long_name}-{number}.tar" if flat else root / part / f"{number}.tar"
            members = {}
            for index, file in enumerate(half):
                members[f"sub.folder/{index:04d}{file.suffix.lower()}"] = file.read_bytes()
                members[f"sub.folder/{index:04d}.cls"] = b"%d\n" % (file.parent.name == "dogs")
            write_tar(path, members)
    return root


@pytest.mark.parametrize("flat", [False, True])
def test_shards_give_the_batches_of_the_folder(folder, tmp_path, flat):
    root = packed(folder, tmp_path / "shards", flat)
    from_folder, from_shards = folder_config(folder), folder_config(root)
    found = from_shards.dataset
    assert (found.num_classes, found.files, found.classes) == (2, [19, 5], None)
    assert_same_batches(epoch_batches(from_shards), epoch_batches(from_folder))
    by_workers = evaluation_batches(folder_config(root, "dataset.workers=2"))
    assert_same_batches(by_workers, evaluation_batches(from_folder))
    (indices,) = {file.parent for file in (tmp_path / "data").rglob("*.npz")}
    for damage in (lambda data: b"half", lambda data: data[: len(data) // 2]):
        for file in indices.glob("*.npz"):
            file.write_bytes(damage(file.read_bytes()))
        assert_same_batches(epoch_batches(folder_config(root)), epoch_batches(from_folder))


def test_shards_read_into_memory_have_the_images_of_the_folder(folder, tmp_path):
    root = packed(folder, tmp_path / "shards")
    padded = [loading.load(folder_config(place, "dataset.crop=padded")).train for place in (root, folder)]
    assert torch.equal(padded[0].images, padded[1].images)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"1.jpg": b"x"}, "1.jpg has no class"),
        ({"1.jpg": b"x", "1.cls": b"cat"}, "1.jpg has no class"),
        ({"1.txt": b"x", "1.cls": b"1"}, "hold no training pictures"),
        ({"a/1.jpg": b"x", "a/1.cls": b"1", "a/1.png": b"x"}, "has two pictures a/1"),
        ({"1.jpg": b"x", "1.cls": b"0", "2.heic": b"x", "2.cls": b"1"}, "2.cls has no picture beside it"),
        (
            {"1.left.jpg": b"x", "1.right.jpg": b"x", "1.cls": b"0"},
            "two pictures 1: 1.left.jpg and 1.right.jpg",
        ),
        ({"1.jpg": b"x", "1.cls": b"9" * 30}, "1.cls holds 999999999999999999999999999999, which is no class"),
        ({"1.jpg": b"x", "1.cls": b"-1"}, "1.jpg has no class"),
        (
            {"1.jpg": b"x", "1.cls": b"1", "2.jpg": b"x", "2.cls": b"2"},
            "run from 1 to 2, and no picture has class 0;",
        ),
        ({"1.jpg": b"x", "1.cls": b"0", "2.jpg": b"x", "2.cls": b"99999999"}, "class 1 or 99999997 others"),
        (None, "is damaged"),
    ],
)
def test_invalid_shards_are_refused(members, words, tmp_path):
    root = tmp_path / "shards"
    write_tar(root / "val" / "0.tar", {"1.jpg": b"x", "1.cls": b"1"})
    write_tar(root / "train" / "0.tar", members or {"1.jpg": b"x" * 9999, "1.cls": b"1"})
    if members is None:
        os.truncate(root / "train" / "0.tar", 5000)
    with pytest.raises(ConfigError, match=words) as error:
        folder_config(root)
    assert [problem.key for problem in error.value.problems] == ["dataset.root"]


def test_shards_without_a_test_split_are_refused(tmp_path):
    write_tar(tmp_path / "shards" / "train" / "0.tar", {"1.jpg": b"x", "1.cls": b"1"})
    with pytest.raises(ConfigError, match="holds no test archives"):
        folder_config(tmp_path / "shards")


def test_labels_beyond_the_number_of_classes_are_refused(folder, tmp_path):
    root = packed(folder, tmp_path / "shards")
    with pytest.raises(ConfigError, match=r"must be at least 2"):
        folder_config(root, "dataset.num_classes=1")
    write_tar(root / "val" / "9.tar", {"1.jpg": (folder / "val/cats/0.png").read_bytes(), "1.cls": b"7"})
    with pytest.raises(ConfigError, match="labels run from 0 to 7"):
        loading.load(folder_config(root))


def pictures_of(root):
    """The training pictures' names in their archive, with their labels."""
    train, _ = shards.listed(root, 16, root / "data")
    return {train.name(i).partition(".tar/")[2]: int(train.targets[i]) for i in range(len(train))}


def with_test(root):
    """`root`, with a test archive added."""
    write_tar(root / "val" / "0.tar", {"1.jpg": b"x", "1.cls": b"1"})
    return root


def test_names_of_pictures_may_have_dots(tmp_path):
    members = {"v1.0/img.6.png": b"x", "v1.0/img.6.cls": b"0", "v1.0/img.7.png": b"x", "v1.0/img.7.cls": b"1"}
    members |= {"8.image.jpg": b"x", "8.cls": b"0", "9.JPG": b"x", "9.CLS": b"1", "10.x.image.JPEG": b"x"}
    members |= {"10.x.cls": b"0", ".hidden.png": b"x"}
    write_tar(tmp_path / "train" / "0.tar", members)
    found = {"v1.0/img.6.png": 0, "v1.0/img.7.png": 1, "8.image.jpg": 0, "9.JPG": 1, "10.x.image.JPEG": 0}
    assert pictures_of(with_test(tmp_path)) == found


def test_further_pictures_with_the_same_key_are_ignored_with_a_warning(tmp_path, capsys):
    write_tar(tmp_path / "train" / "0.tar", {"1.jpg": b"x", "1.mask.png": b"x", "1.cls": b"0"})
    for _ in range(2):  # the second time, the index is read from the cache
        assert pictures_of(with_test(tmp_path)) == {"1.jpg": 0}
        errors = capsys.readouterr().err
        assert "1 pictures in archives, such as" in errors
        assert "1.mask.png" in errors


def test_archives_joined_by_cat_are_read_to_the_end(tmp_path):
    for name in "abc":
        write_tar(tmp_path / f"{name}.tar", {f"{name}.jpg": name.encode() * 700, f"{name}.cls": b"1"})
    joined = with_test(tmp_path / "root") / "train" / "0.tar"
    joined.parent.mkdir()
    joined.write_bytes(b"".join((tmp_path / f"{name}.tar").read_bytes() for name in "abc"))
    train, _ = shards.listed(tmp_path / "root", 16, tmp_path / "data")
    for index, name in enumerate("abc"):
        line = train.where[index]
        assert joined.read_bytes()[line["offset"] :][: line["size"]] == name.encode() * 700
    joined.write_bytes(joined.read_bytes() + b"x" * 1000)
    with pytest.raises(ConfigError, match="is damaged"):
        shards.listed(tmp_path / "root", 16, tmp_path / "data")


@pytest.mark.parametrize("place", ["ILSVRC2012_img_train.tar", "train/cats.tar"])
def test_class_folders_take_precedence_over_archives_beside_them(folder, place):
    write_tar(folder / place, {"cats.tar": b"x"})
    write_tar(folder / "ILSVRC2012_img_val.tar", {"1.jpg": b"x"})
    assert folder_config(folder).dataset.classes == ["cats", "dogs"]
    assert len(loading.load(folder_config(folder)).train) == 19


def test_val_is_used_where_test_archives_have_no_labels(folder, tmp_path):
    root = packed(folder, tmp_path / "shards")
    picture = (folder / "val/cats/0.png").read_bytes()
    write_tar(root / "test" / "0.tar", {f"{i}.png": picture for i in range(7)})
    assert folder_config(root).dataset.files == [19, 5]
    write_tar(root / "test" / "0.tar", {"0.png": picture, "0.cls": b"1"})
    assert folder_config(root).dataset.files == [19, 1]


def test_classes_without_pictures_are_allowed_by_num_classes(folder, tmp_path):
    root = with_test(tmp_path / "shards")
    members = {"1.png": (folder / "val/cats/0.png").read_bytes(), "1.cls": b"1"}
    write_tar(root / "train" / "0.tar", members)
    assert folder_config(root, "dataset.num_classes=2").dataset.num_classes == 2


def test_archives_with_other_labels_but_equal_names_sizes_and_times_are_another_run(folder, tmp_path):
    picture, runs = (folder / "val/cats/0.png").read_bytes(), []
    root = tmp_path / "shards"
    for name, swapped in (("one", False), ("other", True)):
        for part in ("train", "val"):
            members = {}
            for i in range(4):
                members |= {f"{i}.png": picture, f"{i}.cls": b"%d" % ((i + swapped) % 2)}
            write_tar(root / part / "0.tar", members)
            os.utime(root / part / "0.tar", (1, 1))
        runs.append(run_id(folder_config(root)))
        root.rename(tmp_path / name)
    assert loading.load(folder_config(tmp_path / "other")).train.targets.tolist() == [1, 0, 1, 0]
    assert runs[0] != runs[1] == run_id(folder_config(tmp_path / "other"))


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_in_archives_are_refused(tmp_path, kind):
    """tar writes a link for the second name of a file."""
    with_test(tmp_path)
    write_tar(tmp_path / "train" / "0.tar", {"1.jpg": b"x", "1.cls": b"0"})
    with tarfile.open(tmp_path / "train" / "0.tar", "a") as tar:
        for name in ("2.jpg", "2.cls"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, f"1.{name[2:]}"
            tar.addfile(entry)
    with pytest.raises(ConfigError, match=r"2\.jpg is a link to 1\.jpg, not a file"):
        folder_config(tmp_path)
