"""Feature maps of single images (MAN Figure 5, MLAAN Figure 4).

The papers do not state the layers, nor how channels are combined. Here a map is the mean over the channels of a
layer's output, and every map has a scale of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from localsl.analysis.layers import outputs

if TYPE_CHECKING:
    from localsl.core.network import LocalNetwork


def maps(network: LocalNetwork, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """The mean over channels, (N, H, W), of the outputs of these layers for normalised images (N, 3, H, W)."""
    found = {i: x.mean(1) for i, x in enumerate(outputs(network, images)) if i in layers}
    return [found[layer] for layer in layers]


def ends_of_stages(names: Sequence[str]) -> list[int]:
    """The index of the last layer of every stage, given layer names such as "stem", "1.0", "1.1", "2.0"."""
    last = {name.split(".")[0]: index for index, name in enumerate(names) if name != "stem"}
    return list(last.values())
