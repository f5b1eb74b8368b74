"""One process at a run: the lock of its folder."""

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
    """Another process is at this run."""


def is_held(folder: Path) -> bool:
    """Whether a process is at the run of this folder."""
    try:
        with (folder / ".lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def exclusive(cfg: Config) -> Iterator[None]:
    """Hold a run's folder, created if need be, against other processes; wait while another holds it.

    Raises:
        Held: instead of waiting, if `cfg.held` says so.
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
            if cfg.held == "skip":
                raise Held from None
            print(f"another process is at this run: waiting for {path}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
