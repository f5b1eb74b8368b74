"""Pictures in archives: the batches of the same pictures in folders; archives that cannot be right."""

import io
import os
import tarfile

import pytest
import torch

from localsl import data
from localsl.config import ConfigError
from tests.test_stream import epoch, evaluated, same, typed


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def packed(folder, root, flat=False):
    """The same pictures in two archives a split, in the same order."""
    for part, told in (("train", "train"), ("val", "validation")):
        files = [f for label in ("cats", "dogs") for f in sorted((folder / part / label).iterdir())]
        for number, half in enumerate((files[: len(files) // 2], files[len(files) // 2 :])):
            path = root / f"small-{told}-{number}.tar" if flat else root / part / f"{number}.tar"
            members = {}
            for index, file in enumerate(half):
                members[f"sub.folder/{index:04d}{file.suffix.lower()}"] = file.read_bytes()
                members[f"sub.folder/{index:04d}.cls"] = b"%d\n" % (file.parent.name == "dogs")
            write_tar(path, members)
    return root


@pytest.mark.parametrize("flat", [False, True])
def test_shards_make_the_batches_of_the_folder(folder, tmp_path, flat):
    root = packed(folder, tmp_path / "shards", flat)
    there, here = typed(folder), typed(root)
    assert (here.dataset.num_classes, here.dataset.files, here.dataset.classes) == (2, [19, 5], None)
    same(epoch(here), epoch(there))
    same(evaluated(typed(root, "dataset.workers=2")), evaluated(there))
    (indexed,) = {file.parent for file in (tmp_path / "data").rglob("*.npz")}
    for half in (lambda data: b"half", lambda data: data[: len(data) // 2]):
        for file in indexed.glob("*.npz"):
            file.write_bytes(half(file.read_bytes()))
        same(epoch(typed(root)), epoch(there))


def test_shards_in_memory(folder, tmp_path):
    root = packed(folder, tmp_path / "shards")
    padded = [data.load(typed(place, "dataset.crop=padded")).train for place in (root, folder)]
    assert torch.equal(padded[0].images, padded[1].images)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"1.jpg": b"x"}, "1.jpg has no class"),
        ({"1.jpg": b"x", "1.cls": b"cat"}, "1.jpg has no class"),
        ({"1.txt": b"x", "1.cls": b"1"}, "hold no training pictures"),
        ({"a/1.jpg": b"x", "a/1.cls": b"1", "a/1.png": b"x"}, "has two pictures a/1"),
        (None, "is damaged"),
    ],
)
def test_shards_that_cannot_be_right(members, words, tmp_path):
    root = tmp_path / "shards"
    write_tar(root / "val" / "0.tar", {"1.jpg": b"x", "1.cls": b"1"})
    write_tar(root / "train" / "0.tar", members or {"1.jpg": b"x" * 9999, "1.cls": b"1"})
    if members is None:
        os.truncate(root / "train" / "0.tar", 5000)
    with pytest.raises(ConfigError, match=words) as error:
        typed(root)
    assert [problem.key for problem in error.value.problems] == ["dataset.root"]


def test_shards_without_a_test_split(tmp_path):
    write_tar(tmp_path / "shards" / "train" / "0.tar", {"1.jpg": b"x", "1.cls": b"1"})
    with pytest.raises(ConfigError, match="holds no archives for test"):
        typed(tmp_path / "shards")


def test_labels_beyond_the_classes(folder, tmp_path):
    root = packed(folder, tmp_path / "shards")
    with pytest.raises(ConfigError, match=r"must be at least 2"):
        typed(root, "dataset.num_classes=1")
    write_tar(root / "val" / "9.tar", {"1.jpg": (folder / "val/cats/0.png").read_bytes(), "1.cls": b"7"})
    with pytest.raises(ConfigError, match="labels run from 0 to 7"):
        data.load(typed(root))
