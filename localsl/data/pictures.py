"""Pictures on disk: their locations, decoding them, and loading them into memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import torch
from torch import Tensor

from localsl.core.settings import LocalslError, first_line
from localsl.data.splits import Split

if TYPE_CHECKING:
    from PIL.Image import Image

# Turns a PIL image into the square that the network takes.
Transform = Callable[[Any], "Image"]

# The fields of a row of `Pictures.where` after its name, a path below the root. The first `file` bytes of the name
# are the path of a file: the picture itself, or the archive that contains it. `offset` and `size` locate the picture
# in the file, in bytes. `stamp` is the file's ctime in nanoseconds, which changes with every modification, even
# with one that resets the modification time.
FIELDS = [("file", np.int32), ("offset", np.int64), ("size", np.int64), ("stamp", np.int64)]


@dataclass(frozen=True, eq=False)
class Pictures:
    """A split on disk, made of files or of members of archives.

    A million pictures fit in two arrays, whose memory worker processes share.

    Attributes:
        root: the folder that names are relative to.
        size: the side of the decoded squares, in pixels.
        where: structured array (N,) with a "name" and FIELDS.
        targets: (N,) int64.
    """

    root: Path
    size: int
    where: np.ndarray
    targets: Tensor

    @classmethod
    def of(cls, root: Path, size: int, found: Iterable[tuple[bytes, int, int, int, int, int]]) -> Pictures:
        """Build a split from a row (name, file, offset, size, stamp, class) for each picture."""
        rows = list(found)
        longest = max((len(row[0]) for row in rows), default=1)
        where = np.array([row[:5] for row in rows], dtype=[("name", f"S{longest}"), *FIELDS])
        return cls(root, size, where, torch.tensor([row[5] for row in rows], dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Tensor | slice) -> Pictures:
        chosen = index if isinstance(index, slice) else index.numpy()
        return replace(self, where=self.where[chosen], targets=self.targets[index])

    def name(self, index: int) -> str:
        """The path of a picture below the root, as text."""
        return os.fsdecode(self.where[index]["name"])

    def opened(self, index: int) -> Image:
        """Read a picture without decoding it.

        Raises:
            OSError: if its file is missing or is not a picture.
        """
        from PIL import Image

        row = self.where[index]
        with (self.root / os.fsdecode(row["name"][: row["file"]])).open("rb") as file:
            file.seek(row["offset"])
            return Image.open(BytesIO(file.read(row["size"])))

    def decoded(self, index: int, transform: Transform) -> Tensor | str:
        """A picture as (3, size, size) uint8, or a message if it cannot be decoded."""
        from torchvision.transforms.v2.functional import pil_to_tensor

        from localsl.data.pixels import rgb

        try:
            with self.opened(index) as picture:
                return pil_to_tensor(transform(rgb(picture)))
        except Exception as error:  # decoders raise errors of many types for broken files
            return f"{self.name(index)} cannot be read ({reason(error)})"

    def in_memory(self, transform: Transform | None = None) -> Split:
        """Decode all pictures, with one thread per core; `transform` defaults to `for_test`.

        Raises:
            LocalslError: naming a file that cannot be decoded.
        """
        images = torch.empty(len(self), 3, self.size, self.size, dtype=torch.uint8)
        decode = partial(self.decoded, transform=transform or for_test(self.size))
        with ThreadPoolExecutor(joblib.cpu_count()) as threads:
            for index, image in enumerate(threads.map(decode, range(len(self)))):
                if isinstance(image, str):
                    raise LocalslError(image)
                images[index] = image
        return Split(images, self.targets)


def digest(*splits: Pictures) -> str:
    """A hash of the names, sizes and classes of pictures, 16 hexadecimal digits, independent of their root.

    Contents are not read: different pictures with the same names, sizes and classes have the same hash.
    """
    found = hashlib.sha256()
    for split in splits:
        found.update(b"\0".join(split.where["name"].tolist()))
        for column in (split.where["size"], split.targets.numpy()):
            found.update(column.tobytes())
    return found.hexdigest()[:16]


def in_memory(split: Split | Pictures) -> Split:
    """A split as uint8 images in memory; pictures on disk are decoded by `for_test`."""
    return split if isinstance(split, Split) else split.in_memory()


def reason(error: Exception) -> str:
    """One line that says what an error means."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    return first_line(error)


def for_training(size: int, flip: bool) -> Transform:
    """A random crop of 8 to 100 % of the area, resized to a square and mirrored at random if `flip` is set.

    It draws from torch's CPU generator. The released code of all four papers uses it for ImageNet.
    """
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(size, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()]) if flip else crop


def for_test(size: int) -> Transform:
    """A centre crop after resizing the shorter side to 256/224 of `size`, as all released code does for ImageNet."""
    from torchvision.transforms import v2

    from localsl.data.pixels import Resize

    return v2.Compose([Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size)])


def centre_square(size: int) -> Transform:
    """The largest centred square of a picture, resized."""
    from torchvision.transforms import v2

    from localsl.data.pixels import Resize

    return v2.Compose([Resize(size, antialias=True), v2.CenterCrop(size)])
