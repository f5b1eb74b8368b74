"""AugLocal: each module is trained through an auxiliary network built like the layers that come after it.

Ma et al.: "Scaling Supervised Local Learning with Augmented Auxiliary Networks", ICLR 2024. Later layers are
selected evenly, their architecture copied with fresh weights, deeper for early modules (the pyramid). With
`aux.lambda_reconstruction` InfoPro's decoder joins in, on the module's own features (paper section A.9).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from localsl.core.partition import Partition
from localsl.core.settings import Problem
from localsl.methods.base import HeadMethod


@dataclass(kw_only=True)
class AugLocal(HeadMethod):
    """An augmented classifier on each module's output, `depth` layers deep in the first module."""

    aux_net: ClassVar[str] = "auglocal"

    head: str = "auglocal"
    depth: int | None = 6

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """The augmented network is what the rule is."""
        yield from super().problems(partition)
        if self.head != "auglocal":
            what = "AugLocal's networks are built by aux.selection"
            yield Problem("aux_net", self.head, what, "type aux_net=auglocal")
