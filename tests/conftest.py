"""Fixtures and environment of all tests: an empty working folder, the CPU, small images, the real CIFAR-10."""

import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
ON_A_GPU = ("test_cuda.py",)  # test files that use a GPU if there is one

torch.set_num_threads(1)  # networks in tests are small: several threads would mostly wait for each other


def environment(*folders, **more):
    """Environment variables for a Python process that finds packages in these folders, then where this one does."""
    path = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)} | more


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run every test in an empty folder without these variables, so that it does not use the checkout's files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCALSL_DATA", raising=False)
    monkeypatch.delenv("LOCALSL_COMMIT", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@contextmanager
def without_gpu():
    """Hide the GPU from this process and the ones it starts, since many tests at once would not fit on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu(request):
    """Hide the GPU before other fixtures of the test file, which may train networks."""
    with nullcontext() if request.path.name in ON_A_GPU else without_gpu():
        yield


@pytest.fixture
def images_and_targets():
    """A batch of eight random 8x8 images and their targets."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 8, 8, generator=generator)
    return images, torch.arange(8) % 10


@pytest.fixture
def pictures(tmp_path):
    """A folder of ten small pictures of cats and dogs, for dataset=imagefolder."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("test", 2)):
        for name in ("cats", "dogs"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


@pytest.fixture
def folder(tmp_path_factory):
    """A folder of cats and dogs as JPEGs and PNGs of several sizes and modes: 19 for training, 5 for test."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, counts in (("train", {"cats": 9, "dogs": 10}), ("val", {"cats": 3, "dogs": 2})):
        for name, count in counts.items():
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20 + 3 * i, 40 - i, 3), dtype=np.uint8)
                picture = Image.fromarray(pixels).resize((60 - i, 40 + i))
                if i == 1:
                    picture.convert("L").save(root / part / name / "grey.jpg")
                else:
                    picture.save(root / part / name / (f"{i}.JPEG" if i % 2 else f"{i}.png"))
    return root


@pytest.fixture(scope="session")
def real_cifar10(tmp_path_factory):
    """A folder with the original CIFAR-10: LOCALSL_DATA, or unpacked from ../shared; else the test is skipped."""
    configured = os.environ.get("LOCALSL_DATA")
    if configured and (Path(configured) / "cifar-10-batches-py").is_dir():
        return Path(configured)
    unpack = ROOT.parent / "shared" / "data" / "unpack_cifar10.py"
    if not unpack.exists():
        pytest.skip("needs the original CIFAR-10: set LOCALSL_DATA to the folder that holds it")
    folder = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, str(unpack), str(folder)], check=True, capture_output=True)
    return folder
