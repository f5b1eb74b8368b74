"""Which pictures can be decoded: looked at once, all of them, before a run trusts in them."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import torch
from tqdm import tqdm

from localsl.data import kept
from localsl.data.folder import error
from localsl.data.pictures import Pictures, reason

NAMED = 10  # broken files that a message names
AT_ONCE = 256  # files that a thread is given at a time


def checked(splits: Sequence[Pictures], skip: bool, data_dir: Path, told: bool = True) -> list[Pictures]:
    """The splits without the files that cannot be decoded; a warning names them.

    The result is remembered in `data_dir` for this folder until a file's name, size or time of change is
    another; files that were broken are looked at again, since what kept them from being read may have passed.
    Several processes that start together wait for the one that looks.

    Args:
        told: false leaves it to a later call to print what is left out.

    Raises:
        ConfigError: naming the broken files, unless they are to be skipped.
    """
    file = data_dir / "checked" / f"{_digest(splits)}.json"
    with kept.alone(file):
        remembered = _remembered(file)
        if remembered is None:
            broken = [dict(_broken(split)) for split in splits]
        else:
            again = zip(splits, remembered, strict=True)
            broken = [dict(_wrong(split, found)) if found else {} for split, found in again]
        if broken != remembered:
            _remember(file, broken)
    if not any(broken):
        return list(splits)
    files = sum(map(len, splits))
    texts = [text for found in broken for text in found.values()]
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    what = f"{len(texts)} of {files} files cannot be decoded: {', '.join(texts[:NAMED])}{more}"
    if not skip:
        instead = "repair or remove them, or type dataset.skip_broken=true to leave them out"
        raise error(splits[0].root, what, instead)
    if told:
        print(f"warning: {what}; they are left out", file=sys.stderr)
    good = [np.delete(np.arange(len(s)), list(found)) for s, found in zip(splits, broken, strict=True)]
    return [split[torch.from_numpy(index)] for split, index in zip(splits, good, strict=True)]


def _digest(splits: Sequence[Pictures]) -> str:
    digest = hashlib.sha256(bytes(splits[0].root.resolve()))
    for split in splits:
        for name in ("name", "offset", "size", "stamp"):
            digest.update(split.where[name].tobytes())
            digest.update(split.where[name].dtype.str.encode())
    return digest.hexdigest()[:16]


# Of data folders that cannot be written, so that a process looks at all files no more than once.
_unwritten: dict[Path, list[dict[int, str]]] = {}


def _remember(file: Path, broken: list[dict[int, str]]) -> None:
    if not kept.write(file, json.dumps(broken).encode()):
        _unwritten[file] = broken


def _remembered(file: Path) -> list[dict[int, str]] | None:
    try:
        return [{int(k): str(v) for k, v in found.items()} for found in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError, AttributeError):
        return _unwritten.get(file)


def _broken(split: Pictures) -> Iterator[tuple[int, str]]:
    """The index and the name, with what is wrong, of each file that cannot be decoded."""
    parts = [range(i, min(i + AT_ONCE, len(split))) for i in range(0, len(split), AT_ONCE)]
    bar = tqdm(total=len(split), unit="file", desc="checking", disable=not sys.stderr.isatty(), leave=False)
    threads = ThreadPoolExecutor(joblib.cpu_count())  # decoders let go of Python's lock
    try:
        with bar, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which nothing reads
            for part, found in zip(parts, threads.map(lambda p: _wrong(split, p), parts), strict=True):
                yield from found
                bar.update(len(part))
    finally:
        threads.shutdown(cancel_futures=True)


def _wrong(split: Pictures, indices: Iterable[int]) -> list[tuple[int, str]]:
    from localsl.data.pixels import rgb  # torchvision is imported only where it is needed

    found = []
    for index in indices:
        try:
            with split.opened(index) as picture:
                # A JPEG at an eighth of its size: all of its data are read, most arithmetic is not done.
                picture.draft("RGB", (max(1, picture.width // 8), max(1, picture.height // 8)))
                rgb(picture)
        except Exception as wrong:  # decoders raise all sorts of errors on what they cannot read
            found.append((index, f"{split.name(index)} ({reason(wrong)})"))
    return found
