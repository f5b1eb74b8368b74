"""AugLocal: each module is trained through an auxiliary network built like the layers that come after it.

Ma et al.: "Scaling Supervised Local Learning with Augmented Auxiliary Networks", ICLR 2024. Later layers are
selected evenly, their architecture copied with fresh weights, deeper for early modules (the pyramid). With
`aux.lambda_reconstruction` InfoPro's decoder joins in, on the module's own features (paper section A.9).
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
    """An augmented classifier on each module's output, `aux.depth` layers deep in the first module."""

    def problems(self, cfg: Config) -> Iterator[Problem]:
        """The augmented network is what the rule is."""
        yield from super().problems(cfg)
        if cfg.aux.head != "auglocal":
            what = "auglocal's networks are built by aux.selection"
            yield Problem("aux_net", cfg.aux.head, what, "type aux_net=auglocal")
