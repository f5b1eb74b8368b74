"""Results of checking and indexing data files, cached in the data folder for later runs."""

from __future__ import annotations

import contextlib
import fcntl
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from localsl.execution.files import replacing


def write(file: Path, content: bytes) -> bool:
    """Write a cache file atomically, and return whether that succeeded.

    Failure is no error: a warning says that later runs repeat the work.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        _warn(file.parent.parent, error.strerror or str(error))
        return False
    return True


@contextlib.contextmanager
def lock(file: Path) -> Iterator[None]:
    """Let one process at a time compute the content of a cache file, if its folder is writable."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            opened = stack.enter_context(file.with_name(f".{file.name}.lock").open("w"))
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield


@cache
def _warn(folder: Path, reason: str) -> None:
    """Print the warning, once per process."""
    what = f"warning: cannot write to data_dir={folder} ({reason}), so every run checks all files again"
    print(f"{what}; type data_dir=FOLDER for a writable folder", file=sys.stderr)
