"""The fields of a command line beyond those of a run: what to show, measure, analyse or sweep."""

from __future__ import annotations

from dataclasses import dataclass, field

from localsl.config.schema import Config
from localsl.core.settings import Affects, number, one_of, ruled

KINDS = ("none", "cka", "probes", "feature_maps", "convergence", "pyramid", "tradeoff", "accuracy", "grid")
MEASURES = ("memory", "flops", "speed", "overhead", "pipeline")
SHOWN = ("modules", "runs", "bench", "pipeline", "jobs", "status", "tables", "figures", "report", "rehearsal")


@dataclass(kw_only=True)
class AnalysisConfig:
    """An analysis of trained networks, in place of training one (conf/analysis).

    The file of each kind lists the fields that it uses.
    """

    kind: str = ruled(one_of(*KINDS), default="none")
    output: str | None = None
    images: int | None = ruled(number(4, instead="null uses all"), default=None)
    batch: int | None = ruled(number(8, instead="null uses all images at once"), default=None)
    biased: bool = False
    iterations: int = ruled(number(1), default=100)
    penalty: float = ruled(number(0), default=0.0)
    pictures: list[int] = field(default_factory=list)
    layers: list[int] | None = None
    across: str | None = None


@dataclass(kw_only=True)
class Command(Config):
    """A run, and what to do with it: train it, unless `show`, `measure` or `analysis` is set.

    None of these fields is part of a run's identity.

    Attributes:
        runs: the runs to analyse.
        held: whether to wait for a run that another process is training, or to skip it.
    """

    analysis: AnalysisConfig = ruled(affects=Affects.NOTHING, default_factory=AnalysisConfig)
    runs: list[str] = ruled(affects=Affects.NOTHING, default_factory=list)
    sweep: str | None = ruled(affects=Affects.NOTHING)
    held: str = ruled(one_of("wait", "skip"), affects=Affects.NOTHING)
    measure: str | None = ruled(one_of(*MEASURES), affects=Affects.NOTHING)
    show: str | None = ruled(one_of(*SHOWN), affects=Affects.NOTHING)
