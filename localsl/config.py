"""How a configuration is composed, and every check on what a user typed."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast, get_type_hints

import torch
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from localsl import backbones, launching, methods, partition
from localsl.backbones import BackboneConfig
from localsl.composition import CONF, REFUSED, Composition, by_hydra, hydras_keys, hydras_own, options
from localsl.data import sources
from localsl.execution.processes import started
from localsl.identity import leaves
from localsl.methods.base import Method, with_scale
from localsl.schema import ConfigError, Problem
from localsl.settings import KINDS, Config, fields
from localsl.tables import sweeps
from localsl.tables.sweeps import Job, Request

__all__ = ["CONF", "Config", "ConfigError", "check_command_line", "compose", "validate"]

MANY = 40  # configurations that take longer to check than a user waits without wondering


def compose(overrides: Sequence[str] = (), composition: Composition | None = None) -> Config:
    """The validated configuration for a list of command-line overrides such as ["method=dgl", "K=16"].

    Args:
        composition: shared by many configurations, it spares them the reading of the same files.

    Raises:
        ConfigError: with every problem found: overrides that do not compose, unknown keys, wrong
            types, values out of range, and values that do not go together.
    """
    hydra = composition or Composition()
    kept, raw, problems, replaced = _composable(list(overrides), hydra)
    config, wrong = _typed(raw)
    while config is None:  # set the wrong values aside, so that problems behind them are told too
        problems += [problem for problem in wrong if problem not in problems]
        keys = {problem.key.lstrip("+") for problem in wrong}
        before, kept = kept, [o for o in kept if not any(_touches(o, key) for key in keys)]
        if kept == before:
            raise ConfigError(problems)
        config, wrong = _typed(hydra(kept))
    if not replaced:  # with another choice in its place, what does not go together says nothing
        config, more = _resolved(config)
        told = {problem.key for problem in problems}
        problems += [problem for problem in more if problem.key not in told]
    if problems:
        raise ConfigError(problems)
    return config


def validate(raw: DictConfig) -> Config:
    """The typed configuration of one that Hydra composed, checked as `compose` does.

    Raises:
        ConfigError: with every problem found.
    """
    config, problems = _typed(raw)
    if config is not None:
        config, problems = _resolved(config)
    if config is None or problems:
        raise ConfigError(problems)
    return config


def quoted(arguments: Sequence[str]) -> list[str]:
    """The same command line with the runs of `runs=[...]` in quotes: Hydra would stumble over the equals sign
    in a folder's name, and take some ids for numbers.
    """
    return [_quoted(a) if re.fullmatch(r"runs=[^'\"]*", a) else a for a in arguments]


def _quoted(runs: str) -> str:
    texts = runs.removeprefix("runs=").removeprefix("[").removesuffix("]").split(",")
    inside = [text.strip().replace("\\", "\\\\") for text in texts]
    return "runs=[{}]".format(",".join(f"'{text}'" for text in inside if text))


@dataclass(frozen=True)
class Line:
    """What a command line stands for.

    Attributes:
        jobs: its runs; none where Hydra only prints something (`--cfg`, `--help` and their like).
        configs: theirs, in the same order.
        request: the tables that it asks for, or None.
        base: what is the same for all jobs, such as folders; also where the tables have no job.
    """

    jobs: list[Job] = dataclasses.field(default_factory=list)
    configs: list[Config] = dataclasses.field(default_factory=list)
    request: Request | None = None
    base: Config | None = None


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
            what = f"this sweep cannot be expanded ({_first_line(error)})"
            raise ConfigError([Problem("-m", "", what, "list the values: key=a,b,c")]) from None
    wanted = [job.overrides for job in jobs] or [tuple(typed) for typed in request.typed] if request else []
    composed, problems = _all_composed(list(dict.fromkeys(wanted or [job.overrides for job in jobs])))
    if flags.multirun:
        problems += _launch_problems(flags.overrides, composed.values())
    about_sweeps = {cfg.show for cfg in composed.values()} & {"jobs", "status", "tables", "report"}
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
    own = [override for override in overrides if _key(override).startswith(("hydra/", "hydra."))]
    sizes = {cfg.processes for cfg in configs}
    with contextlib.suppress(*REFUSED):  # told with the configurations
        return list(launching.problems(hydras_own(own), sizes)) if own or sizes - {1} else []
    return []


def _composable(
    overrides: list[str], hydra: Composition
) -> tuple[list[str], DictConfig, list[Problem], set[str]]:
    """The overrides that Hydra takes and what they make, a problem for each other, and the groups whose choice
    was refused.
    """
    deletions = [o for o in overrides if o.startswith("~") and not o.startswith("~hydra")]
    problems = [Problem(o, "", "nothing can be left out of a configuration") for o in deletions]
    overrides = [o for o in overrides if o not in deletions]
    with contextlib.suppress(*REFUSED):
        return overrides, hydra(overrides), problems, set()
    kept: list[str] = []
    replaced = set()
    # Choices first: they decide which keys there are.
    for override in sorted(overrides, key=lambda o: not (_key(o) in hydra.groups or "/" in _key(o))):
        try:
            hydra([*kept, override])
        except REFUSED as error:
            if _key(override) in hydra.groups:
                replaced.add(sweeps.field_of(override))
            elif _key(override).split(".")[0] in replaced:
                continue  # it may be a key of the choice that was meant
            problems.append(_refusal(override, kept, error))
        else:
            kept.append(override)
    return kept, hydra(kept), problems, replaced


def _key(override: str) -> str:
    return override.split("=")[0].lstrip("+~")


def _touches(override: str, key: str) -> bool:
    """Whether an override sets this value, or something around or inside it."""
    typed = sweeps.field_of(override)
    return typed == key or typed.startswith(f"{key}.") or key.startswith(f"{typed}.")


def _refusal(override: str, kept: list[str], error: Exception) -> Problem:
    key, equals, value = override.partition("=")
    name = _key(override)
    if not equals or not name:
        return Problem(override, "", "must be key=value")
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as parse_error:
        instead = "put quotes around the value" if value else ""
        return Problem(key, value, f"cannot be read ({_first_line(parse_error)})", instead)
    if parsed.is_sweep_override():
        return Problem(key, value, "several values are a sweep", "add -m to run them all")
    choices = options(name)
    if choices:
        return Problem(key, value, f"one of {', '.join(choices)}", _nearest(value, choices, f"{name}="))
    known = _known(name, kept)
    if name not in known:
        return _unknown(key, value, known)
    return Problem(key, value, _first_line(error))


def _known(name: str, overrides: list[str]) -> list[str]:
    """The keys among which one was looked for: Hydra's own, or the run's."""
    if name.startswith(("hydra/", "hydra.")):
        return hydras_keys(overrides)
    return [path for path, _ in leaves(OmegaConf.to_container(by_hydra(overrides)))]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _unknown(key: str, value: Any, known: list[str]) -> Problem:
    name = key.lstrip("+")
    near = _nearest(name, known)
    here = [k for k in known if k.rpartition(".")[0] == name.rpartition(".")[0]]
    instead = near or (f"known here: {', '.join(here)}" if here else "python run.py --help lists all keys")
    return Problem(key, value, "unknown key", instead)


def _nearest(name: str, known: list[str], prefix: str = "") -> str:
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {prefix}{match[0]}?" if match else ""


def _typed(raw: DictConfig) -> tuple[Config | None, list[Problem]]:
    """The configuration as dataclasses, or None and what is wrong with single values."""
    try:
        container = OmegaConf.to_container(raw, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        return None, [Problem(str(error.full_key), "", _first_line(error))]
    given = dict(leaves(container))
    rule, family = given.get("method.rule"), given.get("backbone.family")
    if rule not in methods.names():
        return None, [Problem("method.rule", rule, f"one of {', '.join(methods.names())}")]
    if family not in backbones.families():
        return None, [Problem("backbone.family", family, f"one of {', '.join(backbones.families())}")]
    classes = methods.find(rule), backbones.find(family)
    schema = copy.deepcopy(_schema(*classes))
    known = dict(fields(*classes))
    problems = []
    for path, value in given.items():
        if path not in known:
            problems.append(_unknown(f"+{path}", value, list(known)))
            continue
        rule = known[path].metadata.get("rule")
        try:
            OmegaConf.update(schema, path, value)
            typed = OmegaConf.select(schema, path)
            if rule is not None and typed is not None and not rule.holds(typed):
                problems.append(Problem(path, value, rule.allowed, rule.instead))
        except REFUSED:
            instead = rule.instead if rule is not None else ""
            problems.append(Problem(path, value, f"must be {_in_words(known[path].type)}", instead))
    for path, field in known.items():
        if path not in given and field.default is field.default_factory is dataclasses.MISSING:
            problems.append(Problem(path, "", "has no value and needs one"))
    if problems:
        return None, problems
    config = OmegaConf.to_object(schema)
    assert isinstance(config, Config)
    return config, []


@cache
def _schema(method: type[Method], backbone: type[BackboneConfig]) -> DictConfig:
    """The schema of a configuration of this rule and family, without values; not to be changed."""
    schema = OmegaConf.structured(Config)
    chosen = {Method: method, BackboneConfig: backbone}
    for name, kind in get_type_hints(Config).items():
        if dataclasses.is_dataclass(kind):
            schema[name] = OmegaConf.structured(chosen.get(cast(type, kind), kind))
    return schema


def _in_words(kind: Any) -> str:
    """A type as a user would say it, from an annotation such as "int | None"."""
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    words |= {"list[float]": "a list of numbers", "list[int]": "a list of whole numbers"}
    words |= {"list[str]": "a list of names", "None": "null"}
    text = kind.__name__ if isinstance(kind, type) else str(kind)
    return " or ".join(words.get(part, part) for part in text.split(" | "))


def _resolved(config: Config) -> tuple[Config, list[Problem]]:
    """The configuration with what the data and the method fill in, and what does not go together."""
    problems = []
    try:
        config = dataclasses.replace(config, dataset=sources.described(config.dataset, config.data_dir))
    except ConfigError as error:
        problems += error.problems
    if config.optimizer.nesterov and config.optimizer.momentum == 0:
        what = "Nesterov needs a momentum above 0"
        problems.append(Problem("optimizer.momentum", 0, what, "or type optimizer.nesterov=false"))
    here = started().size
    if config.processes is None:
        config = dataclasses.replace(config, processes=here)
    problems += _processes_problems(config, here)
    problems += _device_problems(config.device)
    problems += _fast_path_problems(config)
    problems += _analysis_problems(config)
    if config.sweep is not None:
        problems.append(Problem("sweep", config.sweep, "a table is many runs", "add -m"))
    unfit = list(config.backbone.problems()) or list(partition.problems(config))
    if not unfit:  # what follows asks for the layers and the cuts
        config = config.method.resolved(with_scale(config))
        unfit = config.method.problems(config)
    problems += unfit
    return config, problems


def _processes_problems(config: Config, here: int) -> Iterator[Problem]:
    """What several processes cannot do together; `here` is the number that was started."""
    size = config.processes or here
    if here > 1 and size != here:
        yield Problem("processes", size, f"{here} were started", "leave it out")
    if size == 1:
        return
    if config.batch_size % size or config.batch_size < 2 * size:
        what = f"{size} processes take equal parts of a batch, of two images or more"
        near = size * max(2, round(config.batch_size / size))
        yield Problem("batch_size", config.batch_size, what, f"type batch_size={near}")
    if re.fullmatch(r"cuda:\d+", config.device):
        yield Problem("device", config.device, f"{size} processes have a GPU each", "type device=cuda")
    if config.cuda_graph:
        yield Problem("cuda_graph", True, "is for one process", "type cuda_graph=false")
    on_cpu = config.device == "cpu" or (here > 1 and not torch.cuda.is_available())
    if config.sync_batchnorm and on_cpu:
        yield Problem("sync_batchnorm", True, "is for GPUs", "type sync_batchnorm=false")
    if config.sync_batchnorm and config.memory == "lean":
        yield Problem("memory", "lean", "cannot make synchronised BatchNorm again", "type memory=plain")
    for key, value in (("measure", config.measure), ("analysis", config.analysis.kind), ("show", config.show)):
        if here > 1 and value not in (None, "none"):
            yield Problem(key, value, "is for one process", "type python run.py, without torchrun")


def _fast_path_problems(config: Config) -> Iterator[Problem]:
    """What of the ways to execute a step does not go together."""
    if config.compile and config.memory == "lean":
        what = "a compiled step decides itself what it makes again"
        yield Problem("memory", "lean", what, "type memory=plain or compile=false")
    on_gpu = config.device.startswith("cuda") or (config.device == "auto" and torch.cuda.is_available())
    if config.cuda_graph and not on_gpu:
        yield Problem("cuda_graph", True, "is for CUDA devices", "type cuda_graph=false")


def _analysis_problems(config: Config) -> Iterator[Problem]:
    if config.runs and config.analysis.kind == "none":
        what = "are read by an analysis only"
        yield Problem("runs", f"[{','.join(config.runs)}]", what, f"type analysis={'|'.join(KINDS[1:])} too")
    if config.measure is not None and config.analysis.kind != "none":
        what = "a measurement and an analysis are one each"
        yield Problem("measure", config.measure, what, "leave measure or analysis out")
    if config.checkpoint.required and config.checkpoint.every is None:
        what = "this run is made for its checkpoint"
        yield Problem("checkpoint.every", None, what, "type a number of epochs")


def _device_problems(device: str) -> Iterator[Problem]:
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if not match:
        yield Problem("device", device, "one of auto, cpu, cuda, cuda:0, cuda:1, ...")
    elif device.startswith("cuda") and int(match[1] or 0) >= torch.cuda.device_count():
        what = f"this machine has {torch.cuda.device_count()} CUDA devices that torch can use"
        yield Problem("device", device, what, "type device=cpu")
