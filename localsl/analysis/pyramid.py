"""The operations that AugLocal's pyramid saves (AugLocal Figure 5 and Table 11).

    reduction = (A(0) - A(tau)) / A(0)

where A(tau) are the multiply-adds of all auxiliary networks, whose depth falls at the rate tau from the first module
to the last. The network itself is not included.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from localsl.config.building import build_network
from localsl.measure.flops import papers_count

if TYPE_CHECKING:
    from localsl.config.schema import Config


def multiply_adds(cfg: Config) -> tuple[int, int]:
    """Multiply-adds per image of the network and of its auxiliary networks, counted as in AugLocal's tables."""
    network, size = build_network(cfg), cfg.dataset.image_size
    alone = papers_count(network, size, auxiliary=False)
    return alone, papers_count(network, size) - alone


def reduction(cfg: Config) -> float:
    """The reduction of the auxiliary networks' multiply-adds by the pyramid, in per cent."""
    flat = multiply_adds(replace(cfg, aux=replace(cfg.aux, pyramid=0.0)))[1]
    return 100 * (1 - multiply_adds(cfg)[1] / flat)
