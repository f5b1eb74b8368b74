"""The lock of a run's folder, by which one process at a time trains a run."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from localsl.core.settings import ConfigError, Problem
from localsl.runs import identity

if TYPE_CHECKING:
    from localsl.config.schema import Config


class Held(Exception):
    """Another process is running this run."""


def is_held(folder: Path) -> bool:
    """Whether a process is training the run of this folder."""
    try:
        with (folder / ".lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def exclusive(cfg: Config, held: str = "wait") -> Iterator[None]:
    """Lock a run's folder, which is created if needed, against other processes.

    Args:
        held: what to do while another process has the lock: `wait`, or `skip`.

    Raises:
        Held: with `skip`, if another process has the lock.
        ConfigError: if the folder cannot be written.
    """
    path = identity.run_directory(cfg)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("w")
    except OSError as error:
        what = f"the run's folder {path} cannot be written ({error.strerror})"
        raise ConfigError([Problem("output_dir", cfg.output_dir, what, "type output_dir=FOLDER")]) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if held == "skip":
                raise Held from None
            print(f"another process is running this run: waiting for {path}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
