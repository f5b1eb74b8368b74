"""Tiny copies of data sets in their original file layout."""

import numpy as np


def stl10_folder(root, train=40, test=20):
    """Write STL-10 as torchvision reads it: images are stored column by column, and labels start at 1."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", train), ("test", test)):
        images = rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        images.tofile(folder / f"{name}_X.bin")
        (np.arange(count) % 10 + 1).astype(np.uint8).tofile(folder / f"{name}_y.bin")
