"""Feature maps of single images (MAN Figure 5, MLAAN Figure 4).

The papers do not say which layer's, nor how channels become a picture: here it is the mean over the channels of
a layer's output, every map on a scale of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from localsl.analysis.layers import outputs

if TYPE_CHECKING:
    from localsl.core.network import LocalNetwork


def maps(network: LocalNetwork, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """For each of these layers the mean over channels, (N, H, W), of normalised images (N, 3, H, W)."""
    found = {i: x.mean(1) for i, x in enumerate(outputs(network, images)) if i in layers}
    return [found[layer] for layer in layers]


def ends_of_stages(names: Sequence[str]) -> list[int]:
    """The last layer of every stage, of layers named "stem", "1.0", "1.1", "2.0" ..."""
    last = {name.split(".")[0]: index for index, name in enumerate(names) if name != "stem"}
    return list(last.values())
