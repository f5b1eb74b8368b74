"""Pictures that stay on disk: where each lies, how one is decoded, and a few of them in memory."""

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

# How a PIL image becomes the square that a network sees.
Transform = Callable[[Any], "Image"]

# A picture's line in `Pictures.where`. The name is a path below the root, of which the first `file` bytes are a
# file's: all of it, or an archive's that the rest lies in. `stamp` is the file's ctime in nanoseconds: of its
# last change of any kind, also of one that sets back the time of modification.
FIELDS = [("file", np.int32), ("offset", np.int64), ("size", np.int64), ("stamp", np.int64)]


@dataclass(frozen=True, eq=False)
class Pictures:
    """A split on disk, of files or of parts of archives: a million of them in arrays that processes share.

    Attributes:
        root: the folder that names are relative to.
        size: of the squares that they become, in pixels.
        where: (N,), of FIELDS behind a "name".
        targets: (N,) int64.
    """

    root: Path
    size: int
    where: np.ndarray
    targets: Tensor

    @classmethod
    def of(cls, root: Path, size: int, found: Iterable[tuple[bytes, int, int, int, int, int]]) -> Pictures:
        """From (name, file, offset, size, stamp, class) of each."""
        lines = list(found)
        longest = max((len(line[0]) for line in lines), default=1)
        where = np.array([line[:5] for line in lines], dtype=[("name", f"S{longest}"), *FIELDS])
        return cls(root, size, where, torch.tensor([line[5] for line in lines], dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Tensor | slice) -> Pictures:
        chosen = index if isinstance(index, slice) else index.numpy()
        return replace(self, where=self.where[chosen], targets=self.targets[index])

    def name(self, index: int) -> str:
        """Its path below the root, for people."""
        return os.fsdecode(self.where[index]["name"])

    def opened(self, index: int) -> Image:
        """The picture, read but not decoded.

        Raises:
            OSError: if its file is not there or holds no picture.
        """
        from PIL import Image

        line = self.where[index]
        with (self.root / os.fsdecode(line["name"][: line["file"]])).open("rb") as file:
            file.seek(line["offset"])
            return Image.open(BytesIO(file.read(line["size"])))

    def decoded(self, index: int, transform: Transform) -> Tensor | str:
        """A square (3, size, size) uint8; in words why not, where the file is broken."""
        from torchvision.transforms.v2.functional import pil_to_tensor

        from localsl.data.pixels import rgb

        try:
            with self.opened(index) as picture:
                return pil_to_tensor(transform(rgb(picture)))
        except Exception as error:  # decoders raise all sorts of errors on what they cannot read
            return f"{self.name(index)} cannot be read ({reason(error)})"

    def in_memory(self, transform: Transform | None = None) -> Split:
        """All of them, decoded by as many threads as there are cores; for test unless `transform` is given.

        Raises:
            LocalslError: naming a file that broke.
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
    """Sixteen hexadecimal digits of the names, sizes and classes of pictures: equal wherever they lie.

    Their contents are not read: other pictures of the same names and sizes have the same digest.
    """
    found = hashlib.sha256()
    for split in splits:
        found.update(b"\0".join(split.where["name"].tolist()))
        for column in (split.where["size"], split.targets.numpy()):
            found.update(column.tobytes())
    return found.hexdigest()[:16]


def in_memory(split: Split | Pictures) -> Split:
    """A split as bytes in memory, decoded for test where it lies on disk."""
    return split if isinstance(split, Split) else split.in_memory()


def reason(error: Exception) -> str:
    """What an error says, in a line."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "no picture"
    return first_line(error)


def for_training(size: int, flip: bool) -> Transform:
    """A random part of 8 to 100 % of the area, resized to a square, mirrored or not; draws from torch's CPU
    generator. The released code of all four papers for ImageNet.
    """
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(size, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()]) if flip else crop


def for_test(size: int) -> Transform:
    """The middle square of a picture whose shorter side is made 256 for a `size` of 224. The same code's."""
    from torchvision.transforms import v2

    from localsl.data.pixels import Resize

    return v2.Compose([Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size)])


def whole(size: int) -> Transform:
    """The largest square in the middle of a picture, resized."""
    from torchvision.transforms import v2

    from localsl.data.pixels import Resize

    return v2.Compose([Resize(size, antialias=True), v2.CenterCrop(size)])
