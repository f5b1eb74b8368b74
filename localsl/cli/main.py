"""The entry point of `python run.py` and of the installed command `localsl`.

The configuration is composed and checked before Hydra takes over, so that all mistakes are reported at once and
without a traceback. Exit codes: 0 done, 2 wrong configuration, 3 diverged, 130 interrupted, 143 terminated,
1 any other error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from localsl.cli import commands, launching, tables
from localsl.cli.command_line import check_command_line, quoted
from localsl.config import resources, validate
from localsl.config.composition import CONF
from localsl.core.settings import LocalslError
from localsl.data.sources import Known
from localsl.execution.processes import fail

# The contents of image folders, read when the command line was checked. The jobs of a sweep start later, and read
# them again.
KNOWN: Known = {}


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> str | None:
    """Execute one job, and return its status. In a sweep errors are passed to the sweeper, which continues."""
    if launching.INTERRUPTED.is_set():
        return "interrupted"
    try:
        record = commands.run(validate(cfg, known=KNOWN or None))
        sys.stdout.flush()
    except LocalslError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        sys.exit(fail(error))
    except BrokenPipeError:
        exit_unread()
    except KeyboardInterrupt:
        if not launching.in_worker():
            raise
        # An error would make joblib kill the other workers before they have saved their runs.
        launching.INTERRUPTED.set()
        return "interrupted"
    return record["status"] if record else None


def exit_unread() -> NoReturn:
    """Exit when nobody reads the output any more, as with `show=runs | head`."""
    with contextlib.suppress(OSError, ValueError):  # otherwise Python reports unwritten output at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def main() -> None:
    """Check the command line and run its jobs; after a sweep, compare its runs or render its tables."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.argv[1:] = quoted(sys.argv[1:])
    try:
        resources.check()
        line = check_command_line(sys.argv[1:])
        text = commands.listing(line.base) if line.base else None
        text = tables.shown(line) if text is None else text
        if text is not None:
            print(text, flush=True)
            return
        KNOWN.clear()
        if len(line.jobs) == 1:
            KNOWN.update(line.known)
        with tables.reporting(line):
            job()
        sys.stdout.flush()
    except BrokenPipeError:
        exit_unread()
    except LocalslError as error:
        sys.exit(fail(error))
    except KeyboardInterrupt:
        sys.exit(130)
