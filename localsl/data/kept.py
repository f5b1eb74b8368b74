"""What was found out about files and is kept in the data folder, so that the next run need not look again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def write(file: Path, content: bytes) -> bool:
    """Keep it, whole or not at all, and return whether that went well.

    A folder that cannot be written only means that it is found out again, which is told.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        beside.write_bytes(content)
        beside.replace(file)
    except OSError as error:
        _tell(file.parent.parent, error.strerror or str(error))
        return False
    return True


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Let one process at a time find out what `file` is to hold, where the folder can be written."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(file.with_name(f".{file.name}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def _tell(folder: Path, reason: str) -> None:
    """Once in a process."""
    told = f"warning: nothing can be kept in data_dir={folder} ({reason}), so that every run looks at all files"
    print(f"{told} anew; type data_dir=FOLDER for one that can be written", file=sys.stderr)
