"""InfoPro: each module also reconstructs the image, so as not to discard information that later modules need.

Wang et al.: "Revisiting Locally Supervised Learning: an Alternative to End-to-end Training", ICLR 2021. The weights
of both losses are interpolated from the first module to the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from localsl.core.partition import Partition
from localsl.core.settings import Problem
from localsl.methods.base import HeadMethod


@dataclass(kw_only=True)
class InfoPro(HeadMethod):
    """A classifier (`loss="softmax"` or `"contrastive"`) and a decoder on each module's output."""

    head: str = "1c2f"
    lambda_ce: list[float] | None = None
    lambda_reconstruction: list[float] | None = None
    lambda_over: str | None = None

    def problems(self, partition: Partition) -> Iterator[Problem]:
        """The problems of `HeadMethod`, and a missing decoder."""
        yield from super().problems(partition)
        if not any(self.lambda_reconstruction or []):
            what = "InfoPro needs a decoder"
            instead = "type aux_net=infopro, or method=dgl aux_net=dgl_1c2f for the classifier alone"
            yield Problem("aux.lambda_reconstruction", self.lambda_reconstruction, what, instead)
