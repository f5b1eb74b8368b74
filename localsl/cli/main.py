"""What `python run.py` and the installed command `localsl` do.

The configuration is composed and checked before Hydra takes over, so that every mistake is told at once,
without a traceback. Exit codes: 0 done, 2 wrong configuration, 3 diverged, 130 interrupted,
143 terminated, 1 anything else.
"""

from __future__ import annotations

import signal
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from localsl.cli import commands
from localsl.cli import tables as command
from localsl.cli.command_line import check_command_line, quoted
from localsl.config import resources
from localsl.config.composition import CONF
from localsl.config.validation import validate
from localsl.core.settings import LocalslError
from localsl.execution.processes import fail


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> str | None:
    """One run; returns how it ended. In a sweep its error goes to the sweeper, which goes on."""
    try:
        record = commands.run(validate(cfg))
    except LocalslError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        sys.exit(fail(error))
    return record["status"] if record else None


def main() -> None:
    """Check, run, and after a sweep compare its runs or render its tables."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.argv[1:] = quoted(sys.argv[1:])
    try:
        resources.check()
        line = check_command_line(sys.argv[1:])
        told = command.shown(line)
        if told is not None:
            print(told)
            return
        with command.around(line):
            job()
    except LocalslError as error:
        sys.exit(fail(error))
    except KeyboardInterrupt:
        sys.exit(130)
