"""Data sets in their own layout, of a few images."""

import numpy as np


def stl10_folder(root, train=40, test=20):
    """Files in torchvision's layout: images are stored column by column, labels from 1."""
    place = root / "stl10_binary"
    place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", train), ("test", test)):
        images = rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        images.tofile(place / f"{name}_X.bin")
        (np.arange(count) % 10 + 1).astype(np.uint8).tofile(place / f"{name}_y.bin")
