"""DGL, decoupled greedy learning: each module is trained by the cross-entropy of its own classifier.

Belilovsky, Eickenberg, Oyallon: "Decoupled Greedy Learning of CNNs", ICML 2020. The graph is cut after
every module, and nothing but the auxiliary head differs from backpropagation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localsl.methods.base import HeadMethod
from localsl.schema import Problem

if TYPE_CHECKING:
    from localsl.settings import Config


@dataclass(kw_only=True)
class Settings(HeadMethod):
    """A classifier on each module's output, and nothing else."""

    def problems(self, cfg: Config) -> Iterator[Problem]:
        """Other terms would make it another rule."""
        yield from super().problems(cfg)
        if any(cfg.aux.lambda_reconstruction or []) or any(cfg.aux.lambda_similarity):
            what = "dgl's modules have a classifier only"
            yield Problem("aux_net", cfg.aux.head, what, "type method=infopro or method=predsim")
