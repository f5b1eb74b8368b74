"""What a command line stands for: its jobs, all checked before the first starts."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Sequence

from hydra._internal.utils import get_args_parser
from hydra.errors import OverrideParseException

from localsl.cli import launching
from localsl.config.composition import REFUSED, Composition, field_of, hydras_own
from localsl.config.schema import Config
from localsl.config.validation import compose
from localsl.core.settings import ConfigError, Problem, first_line
from localsl.tables import sweeps
from localsl.tables.sweeps import Job, Line

MANY = 40  # configurations that take longer to check than a user waits without wondering


def quoted(arguments: Sequence[str]) -> list[str]:
    """The same command line with the runs of `runs=[...]` in quotes: Hydra would stumble over the equals sign
    in a folder's name, and take some ids for numbers.
    """
    return [_quoted(a) if re.fullmatch(r"runs=[^'\"]*", a) else a for a in arguments]


def _quoted(runs: str) -> str:
    texts = runs.removeprefix("runs=").removeprefix("[").removesuffix("]").split(",")
    inside = [text.strip().replace("\\", "\\\\") for text in texts]
    return "runs=[{}]".format(",".join(f"'{text}'" for text in inside if text))


def check_command_line(arguments: Sequence[str]) -> Line:
    """Every job that a command line stands for, all checked before the first starts.

    Raises:
        ConfigError: with the problems of all jobs together.
    """
    flags = get_args_parser().parse_args(list(arguments))
    if flags.cfg or flags.help or flags.hydra_help or flags.info or flags.shell_completion:
        return Line()
    jobs, request = [Job(tuple(flags.overrides))], None
    if flags.multirun:
        try:
            request = sweeps.requested(flags.overrides)
            jobs = request.jobs if request else sweeps.jobs(flags.overrides)
        except OverrideParseException:
            pass  # told as single problems below
        except REFUSED as error:
            what = f"this sweep cannot be expanded ({first_line(error)})"
            raise ConfigError([Problem("-m", "", what, "list the values: key=a,b,c")]) from None
    wanted = [job.overrides for job in jobs] or [tuple(typed) for typed in request.typed] if request else []
    composed, problems = _all_composed(list(dict.fromkeys(wanted or [job.overrides for job in jobs])))
    if flags.multirun:
        problems += _launch_problems(flags.overrides, composed.values())
    about_sweeps = {cfg.show for cfg in composed.values()} & {"status", "tables", "report"}
    if request is None and about_sweeps:
        what = "is about the runs of a table"
        problems.append(Problem("show", about_sweeps.pop(), what, "type -m sweep=table1 too"))
    if problems:
        raise ConfigError(problems)
    base = next(iter(composed.values()))
    return Line(jobs, [job.seeded(composed[job.overrides]) for job in jobs], request, base)


def _all_composed(wanted: list[tuple[str, ...]]) -> tuple[dict[tuple[str, ...], Config], list[Problem]]:
    """The configurations that compose, by their overrides, and the problems of the others, each once."""
    if len(wanted) >= MANY:
        print(f"checking {len(wanted)} configurations ...", file=sys.stderr, flush=True)
    composed: dict[tuple[str, ...], Config] = {}
    problems: list[Problem] = []
    composition = Composition()
    for overrides in wanted:
        try:
            composed[overrides] = compose(overrides, composition)
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    return composed, problems


def _launch_problems(overrides: Sequence[str], configs: Iterable[Config]) -> list[Problem]:
    own = [override for override in overrides if field_of(override).startswith(("hydra/", "hydra."))]
    # What a run on several processes costs is measured by one.
    sizes = {cfg.processes for cfg in configs if cfg.measure is None}
    with contextlib.suppress(*REFUSED):  # told with the configurations
        return list(launching.problems(hydras_own(own), sizes)) if own or sizes - {1} else []
    return []
