"""A check that all pictures can be decoded, made before a run and cached."""

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

from localsl.data import file_cache
from localsl.data.folder import error
from localsl.data.pictures import Pictures, reason

MAX_NAMED = 10  # broken files that a message names
CHUNK = 256  # files that a thread checks at a time


def checked(splits: Sequence[Pictures], skip: bool | None, data_dir: Path, warn: bool = True) -> list[Pictures]:
    """The splits without the files that cannot be decoded; a warning names these.

    The result is cached in `data_dir` for this root until a file's name, size or change time differs. Files that were
    broken are checked again in every run, since the cause may have been temporary. Processes that start together wait
    for the one that checks.

    Args:
        skip: whether to leave broken files out instead of raising an error; None where that cannot be asked for.
        warn: whether to print the warning.

    Raises:
        ConfigError: naming the broken files, unless `skip` is set.
    """
    file = data_dir / "checked" / f"{_digest(splits)}.json"
    with file_cache.lock(file):
        cached = _read(file)
        if cached is None:
            broken = [dict(_check_all(split)) for split in splits]
        else:
            again = zip(splits, cached, strict=True)
            broken = [dict(_check(split, found)) if found else {} for split, found in again]
        if broken != cached:
            _write(file, broken)
    if not any(broken):
        return list(splits)
    files = sum(map(len, splits))
    texts = [text for found in broken for text in found.values()]
    more = f" and {len(texts) - MAX_NAMED} more" if len(texts) > MAX_NAMED else ""
    what = f"{len(texts)} of {files} files cannot be decoded: {', '.join(texts[:MAX_NAMED])}{more}"
    if not skip:
        instead = "repair or remove them, or type dataset.skip_broken=true to leave them out"
        if skip is None:
            instead = "repair them, or download them again"
        raise error(splits[0].root, what, instead)
    if warn:
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


# Results for data folders that are not writable, so that a process checks all files at most once.
_unwritten: dict[Path, list[dict[int, str]]] = {}


def _write(file: Path, broken: list[dict[int, str]]) -> None:
    if not file_cache.write(file, json.dumps(broken).encode()):
        _unwritten[file] = broken


def _read(file: Path) -> list[dict[int, str]] | None:
    try:
        return [{int(k): str(v) for k, v in found.items()} for found in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError, AttributeError):
        return _unwritten.get(file)


def _check_all(split: Pictures) -> Iterator[tuple[int, str]]:
    """The index of each file that cannot be decoded, with its name and the reason."""
    chunks = [range(i, min(i + CHUNK, len(split))) for i in range(0, len(split), CHUNK)]
    bar = tqdm(total=len(split), unit="file", desc="checking", disable=not sys.stderr.isatty(), leave=False)
    threads = ThreadPoolExecutor(joblib.cpu_count())  # decoders release the GIL
    try:
        with bar, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual metadata, which is not used
            for chunk, found in zip(chunks, threads.map(lambda c: _check(split, c), chunks), strict=True):
                yield from found
                bar.update(len(chunk))
    finally:
        threads.shutdown(cancel_futures=True)


def _check(split: Pictures, indices: Iterable[int]) -> list[tuple[int, str]]:
    from localsl.data.pixels import rgb  # imported late because it imports torchvision

    found = []
    for index in indices:
        try:
            with split.opened(index) as picture:
                # Decoding a JPEG at an eighth of its size reads all its data but skips most arithmetic.
                picture.draft("RGB", (max(1, picture.width // 8), max(1, picture.height // 8)))
                rgb(picture)
        except Exception as cause:  # decoders raise errors of many types for broken files
            found.append((index, f"{split.name(index)} ({reason(cause)})"))
    return found
