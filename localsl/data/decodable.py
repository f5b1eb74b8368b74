"""Which pictures can be decoded: looked at once, all of them, before a run trusts in them."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import torch
from tqdm import tqdm

from localsl.data import kept
from localsl.data.folder import error
from localsl.data.pictures import Pictures, reason

NAMED = 10  # broken files that are told by name
AT_ONCE = 256  # files that a thread is given at a time


def checked(splits: Sequence[Pictures], skip: bool, data_dir: Path) -> list[Pictures]:
    """The splits without what cannot be decoded, which is told.

    The result is remembered in `data_dir` until a file's name, size or time of change is another. Several
    processes that start together wait for the one that looks.

    Raises:
        ConfigError: naming the broken files, unless they are to be skipped.
    """
    file = data_dir / "checked" / f"{_digest(splits)}.json"
    with kept.alone(file):
        broken = _remembered(file)
        if broken is None:
            broken = [dict(_broken(split)) for split in splits]
            kept.write(file, json.dumps(broken).encode())
    if not any(broken):
        return list(splits)
    files = sum(map(len, splits))
    texts = [text for found in broken for text in found.values()]
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    told = f"{len(texts)} of {files} files cannot be decoded: {', '.join(texts[:NAMED])}{more}"
    if not skip:
        instead = "repair or remove them, or type dataset.skip_broken=true to leave them out"
        raise error(splits[0].root, told, instead)
    print(f"warning: {told}; they are left out", file=sys.stderr)
    good = [np.delete(np.arange(len(s)), list(found)) for s, found in zip(splits, broken, strict=True)]
    return [split[torch.from_numpy(index)] for split, index in zip(splits, good, strict=True)]


def _digest(splits: Sequence[Pictures]) -> str:
    digest = hashlib.sha256()
    for split in splits:
        for name in ("name", "offset", "size", "stamp"):
            digest.update(split.where[name].tobytes())
            digest.update(split.where[name].dtype.str.encode())
    return digest.hexdigest()[:16]


def _remembered(file: Path) -> list[dict[int, str]] | None:
    try:
        return [{int(k): str(v) for k, v in found.items()} for found in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError, AttributeError):
        return None


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


def _wrong(split: Pictures, indices: range) -> list[tuple[int, str]]:
    found = []
    for index in indices:
        try:
            with split.opened(index) as picture:
                # A JPEG at an eighth of its size: all of its data are read, most arithmetic is not done.
                picture.draft("RGB", (max(1, picture.width // 8), max(1, picture.height // 8)))
                picture.convert("RGB")
        except Exception as wrong:  # decoders raise all sorts of errors on what they cannot read
            found.append((index, f"{split.name(index)} ({reason(wrong)})"))
    return found
