"""PredSim: each module predicts the class, and matches the similarities of its features to the targets'.

Nøkland and Eidnes: "Training Neural Networks with Local Error Signals", ICML 2019, as AugLocal re-implements
it for its tables: two heads on a module's output, weights 0.99 (similarity) and 0.01 (cross-entropy).
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
    """A classifier and a similarity-matching loss on each module's output."""

    def problems(self, cfg: Config) -> Iterator[Problem]:
        """Without the similarity it would be another rule."""
        yield from super().problems(cfg)
        if not any(cfg.aux.lambda_similarity or []):
            what = "predsim's modules have a similarity loss"
            yield Problem("aux_net", cfg.aux.head, what, "type aux_net=predsim")
