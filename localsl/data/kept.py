"""What was found out about files and is kept in the data folder, so that the next run need not look again."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def write(file: Path, content: bytes) -> None:
    """Keep it, whole or not at all: a folder that cannot be written only means that it is found out again."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        beside.write_bytes(content)
        beside.replace(file)


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Let one process at a time find out what `file` is to hold, where the folder can be written."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(file.with_name(f".{file.name}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
