"""Configuration problems, and rules for the values that a field allows beside its type."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import Field, dataclass, field, fields
from enum import Flag, auto
from types import NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints


class LocalslError(Exception):
    """An error that a user can act on: printed without a traceback, ends the process with `exit_code`.

    `alike` marks errors that all processes of a run raise together, which are printed once per machine.
    """

    exit_code = 1
    alike = False


@dataclass(frozen=True)
class Problem:
    """A mistake in a configuration: the key, its value, what is allowed, and what to type instead."""

    key: str
    value: Any
    allowed: str
    instead: str = ""

    def __str__(self) -> str:
        value = "null" if self.value is None else self.value
        start = self.key if self.value == "" else f"{self.key}={value}"
        return f"{start}: {self.allowed}" + (f"; {self.instead}" if self.instead else "")


class ConfigError(LocalslError):
    """All mistakes found in a configuration. The process ends with exit code 2.

    Attributes:
        problems: one `Problem` per mistake.
    """

    exit_code = 2
    alike = True

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        count = len(self.problems)
        head = f"{count} problem{'s' if count > 1 else ''} in the configuration:"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))

    def __reduce__(self):
        # Launchers pickle a job's error, which cannot be rebuilt from its message alone.
        return type(self), (self.problems,)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the error's type if it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class Rule:
    """What values a field allows, as a test and in words."""

    holds: Callable[[Any], bool]
    allowed: str
    instead: str = ""


class Affects(Flag):
    """What changes with the value of a field: the numbers that a run finds, its peak memory, its time."""

    NOTHING = 0
    NUMBERS = auto()
    MEMORY = auto()
    TIME = auto()
    COST = MEMORY | TIME
    ALL = NUMBERS | COST


def ruled(
    rule: Rule | None = None,
    *,
    always: bool = False,
    affects: Affects | None = None,
    setting: bool | None = None,
    **kwargs: Any,
) -> Any:
    """A dataclass field whose values must satisfy `rule`; None passes where the type allows it.

    Args:
        always: whether a value that equals its default is part of a run's identity. By default it is not, so that
            a new field leaves the ids of recorded runs unchanged.
        affects: what changes with its value; by default as the field around it says, and `Affects.ALL` at the top.
        setting: whether it says how long, on how many images or how something is trained, which a table's cell
            leaves open; by default as the field around it says, and False at the top.
    """
    return field(metadata={"rule": rule, "always": always, "affects": affects, "setting": setting}, **kwargs)


def wrong_values(settings: Any) -> Iterator[Problem]:
    """One problem for each field of a dataclass whose value does not satisfy its rule."""
    for entry in fields(settings):
        rule, value = _rule(settings.__class__, entry.name), getattr(settings, entry.name)
        if rule is not None and value is not None and not rule.holds(value):
            yield Problem(entry.name, value, rule.allowed, rule.instead)


def wrong_types(settings: Any) -> Iterator[Problem]:
    """One problem for each field of a dataclass whose value is not of the field's type."""
    try:
        kinds = get_type_hints(settings.__class__)
    except NameError:  # a rule of one's own may name types that only a type checker imports
        return
    for entry in fields(settings):
        value, kind = getattr(settings, entry.name), kinds[entry.name]
        if not _is_of(value, kind):
            named = kind.__name__ if isinstance(kind, type) and get_origin(kind) is None else kind
            yield Problem(entry.name, repr(value), f"must be {named}")


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a type: a scalar, a list or a union. A whole number is a float too; other types pass."""
    if get_origin(kind) in (Union, UnionType):
        return any(_is_of(value, one) for one in get_args(kind))
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        return isinstance(value, list | tuple) and all(_is_of(x, inner) for x in cast("list[Any]", value))
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, kind) if kind in (bool, str, NoneType) else True


def _rule(settings: type, name: str) -> Rule | None:
    """The rule of a field, which a subclass inherits even if it redeclares the field without a rule."""
    for cls in settings.__mro__:
        declared: dict[str, Field[Any]] = vars(cls).get("__dataclass_fields__", {})
        rule: Rule | None = declared[name].metadata.get("rule") if name in declared else None
        if rule is not None:
            return rule
    return None


def derived(affects: Affects | None = None) -> Any:
    """A dataclass field that is found out, never typed."""
    return ruled(Rule(lambda v: False, "is counted, not typed", "leave it out"), affects=affects, default=None)


def name() -> Rule:
    """Text that can be part of a folder's name."""
    return Rule(
        lambda v: re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", v) is not None,
        "must be letters, digits, '_', '-' and '.'",
    )


def one_of(*values: str) -> Rule:
    """One of the given values."""
    return Rule(lambda v: v in values, f"one of {', '.join(values)}")


def number(
    at_least: float = -math.inf,
    *,
    at_most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    instead: str = "",
) -> Rule:
    """A finite number within bounds."""
    words = [
        f"{name} {limit:g}"
        for name, limit in (
            ("at least", at_least),
            ("at most", at_most),
            ("above", above),
            ("below", below),
        )
        if math.isfinite(limit)
    ]
    return Rule(
        lambda v: math.isfinite(v) and at_least <= v <= at_most and above < v < below,
        f"must be a finite number {' and '.join(words)}".rstrip(),
        instead,
    )


def triple(above: float = -math.inf) -> Rule:
    """Three finite numbers, one per colour channel."""
    words = f" above {above:g}" if math.isfinite(above) else ""
    return Rule(
        lambda v: len(v) == 3 and all(math.isfinite(x) and x > above for x in v),
        f"must be three numbers{words}, one per colour channel",
    )


def ends() -> Rule:
    """Two finite numbers: the values for the first and for the last module."""
    return Rule(
        lambda v: len(v) == 2 and all(math.isfinite(x) for x in v),
        "must be two numbers, [first module, last module]",
    )


def ascending() -> Rule:
    """A possibly empty list of epochs, each later than the one before."""
    return Rule(
        lambda v: all(a < b for a, b in zip([0, *v], v, strict=False)),
        "must be numbers of epochs, each above the one before",
    )
