"""AugLocal: each module is trained through an auxiliary network built like the layers that come after it.

Ma et al.: "Scaling Supervised Local Learning with Augmented Auxiliary Networks", ICLR 2024. Auxiliary networks have
the architecture of evenly selected later layers, with weights of their own, and are deeper in early modules (the
pyramid). `aux.lambda_reconstruction` adds InfoPro's decoder on the module's features (section A.9).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from localsl.core.partition import Partition
from localsl.core.settings import Problem
from localsl.methods.base import HeadMethod


@dataclass(kw_only=True)
class AugLocal(HeadMethod):
    """An auxiliary classifier built like later layers on each module's output, `depth` layers in the first."""

    head: str = "auglocal"
    depth: int | None = 6

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """The problems of `HeadMethod`, and heads other than AugLocal's."""
        yield from super().problems(partition)
        if self.head != "auglocal":
            what = "AugLocal needs its own auxiliary networks"
            yield Problem("aux.head", self.head, what, "type aux_net=auglocal")
