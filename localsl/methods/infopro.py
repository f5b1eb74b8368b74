"""InfoPro: each module restores the image beside classifying, so as not to lose what later modules need.

Wang et al.: "Revisiting Locally Supervised Learning: an Alternative to End-to-end Training", ICLR 2021. The
weights of both losses run from the first module's to the last's.
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
    """A classifier (`aux.loss=softmax` or `contrastive`) and a decoder on each module's output."""

    def problems(self, cfg: Config) -> Iterator[Problem]:
        """Without the decoder it would be another rule."""
        yield from super().problems(cfg)
        if not any(cfg.aux.lambda_reconstruction or []):
            yield Problem(
                "aux_net",
                cfg.aux.head,
                "infopro's modules have a decoder, so aux.lambda_reconstruction cannot be 0",
                "type aux_net=infopro, or method=dgl aux_net=dgl_1c2f for the classifier alone",
            )
