"""Expands a command line to its jobs, all checked before the first starts."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.errors import OverrideParseException

from localsl.cli import launching
from localsl.config.command import Command
from localsl.config.composition import REFUSED, Composition, field_of, hydras_own, searched
from localsl.config.validation import compose
from localsl.core.settings import ConfigError, Problem, first_line
from localsl.tables import sweeps
from localsl.tables.sweeps import Job, Line

MANY = 40  # configurations whose check takes long enough to be announced


# A folder that starts with `~`. Shells do not expand it after an equals sign; Hydra cannot parse it, or takes it for
# the name of a folder.
AT_HOME = re.compile(r"""(\+*(?:data_dir|output_dir|results_dir|dataset\.root)=)(["']?)(~(?:/[^,"']*)?)\2""")


def quoted(arguments: Sequence[str]) -> list[str]:
    """Rewrite a command line for Hydra's parser: flags come first, and `~` in folders is expanded.

    The values of `runs=[...]` and `backbone_run=` are quoted, because Hydra cannot parse the equals sign in a
    folder's name, and would convert some ids to numbers.
    """
    typed = [_quoted(a) if re.fullmatch(r"runs=[^'\"]*", a) else a for a in _flags_first(arguments)]
    typed = [re.sub(r"^(\+?backbone_run=)(?!null$)([^'\"]+)$", r"\1'\2'", a) for a in typed]
    at_home = [(AT_HOME.fullmatch(a), a) for a in typed]
    return [f'{found[1]}"{os.path.expanduser(found[3])}"' if found else a for found, a in at_home]


def _flags_first(arguments: Sequence[str]) -> list[str]:
    """Move flags before overrides, because Hydra's parser needs the overrides in one piece.

    Of `K=4 -m seed=1,2` it would not parse `seed=1,2`.
    """
    options = {text: action for action in get_args_parser()._actions for text in action.option_strings}
    flags: list[str] = []
    overrides: list[str] = []
    left = list(arguments)
    while left:
        flag = left.pop(0)
        if not flag.startswith("-"):
            overrides.append(flag)
            continue
        flags.append(flag)
        action = options.get(flag)
        if action is not None and left and (action.nargs is None or left[0] in (action.choices or ())):
            flags.append(left.pop(0))
    return flags + overrides


def _quoted(runs: str) -> str:
    texts = runs.removeprefix("runs=").removeprefix("[").removesuffix("]").split(",")
    inside = [text.strip().replace("\\", "\\\\") for text in texts]
    return "runs=[{}]".format(",".join(f"'{text}'" for text in inside if text))


def check_command_line(arguments: Sequence[str]) -> Line:
    """Expand a command line to its jobs, and check all of them before the first starts.

    Raises:
        ConfigError: with the problems of all jobs.
    """
    flags = get_args_parser().parse_args(list(arguments))
    if flags.cfg or flags.help or flags.hydra_help or flags.info or flags.shell_completion:
        return Line()
    _check_places(flags)
    jobs, request = [Job(tuple(flags.overrides))], None
    if flags.multirun:
        try:
            request = sweeps.requested(flags.overrides)
            jobs = request.jobs if request else sweeps.jobs(flags.overrides)
        except OverrideParseException:
            pass  # reported below as the problem of a single override
        except REFUSED as error:
            what = f"this sweep cannot be expanded ({first_line(error)})"
            raise ConfigError([Problem("-m", "", what, "list the values: key=a,b,c")]) from None
    wanted = [job.overrides for job in jobs] or [tuple(typed) for typed in request.typed] if request else []
    composition = Composition(searched(flags.overrides, flags.config_dir))
    every = list(dict.fromkeys(wanted or [job.overrides for job in jobs]))
    composed, problems = _all_composed(every, composition)
    if flags.multirun:
        problems += _launch_problems([*composition.search, *flags.overrides], composed.values())
    shows = {"status", "tables", "figures", "report", "rehearsal"}
    about_sweeps = {cfg.show for cfg in composed.values()} & shows
    if request is None and about_sweeps:
        what = "needs a sweep"
        problems.append(Problem("show", about_sweeps.pop(), what, "type -m sweep=table1 too"))
    if problems:
        raise ConfigError(problems)
    base = next(iter(composed.values()))
    configs = [job.seeded(composed[job.overrides]) for job in jobs]
    return Line(jobs, configs, request, base, composition.known)


def _check_places(flags: Any) -> None:
    """Refuse flags with which Hydra would compose another configuration than the checked one.

    Raises:
        ConfigError: if such a flag is given, or the folder of --config-dir does not exist.
    """
    problems = []
    for key in ("config_path", "config_name", "package"):
        if getattr(flags, key) is not None:
            flag, what = (
                f"--{key.replace('_', '-')}",
                "the configuration is always composed from conf/config.yaml",
            )
            instead = "type --config-dir FOLDER to add choices of your own, such as FOLDER/dataset/mine.yaml"
            problems.append(Problem(flag, getattr(flags, key), what, instead))
    if flags.config_dir is not None and not os.path.isdir(flags.config_dir):
        problems.append(Problem("--config-dir", flags.config_dir, "there is no such folder"))
    if problems:
        raise ConfigError(problems)


def _all_composed(
    wanted: list[tuple[str, ...]], composition: Composition
) -> tuple[dict[tuple[str, ...], Command], list[Problem]]:
    """Compose all configurations.

    Returns:
        The valid configurations by their overrides, and the problems of the others without duplicates.
    """
    if len(wanted) >= MANY:
        print(f"checking {len(wanted)} configurations ...", file=sys.stderr, flush=True)
    composed: dict[tuple[str, ...], Command] = {}
    problems: list[Problem] = []
    for overrides in wanted:
        try:
            composed[overrides] = compose(overrides, composition)
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    return composed, problems


def _launch_problems(overrides: Sequence[str], configs: Iterable[Command]) -> list[Problem]:
    own = [override for override in overrides if field_of(override).startswith(("hydra/", "hydra."))]
    # A measurement uses one process, whatever the number of processes of the run.
    sizes = {cfg.processes for cfg in configs if cfg.measure is None}
    with contextlib.suppress(*REFUSED):  # reported with the configurations
        return list(launching.problems(hydras_own(own), sizes)) if own or sizes - {1} else []
    return []
