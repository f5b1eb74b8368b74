"""Auxiliary networks in the notation of the papers, such as 64R-AP-10FC (AugLocal, Table 6)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from localsl.config.building import build_network
from localsl.config.validation import compose
from localsl.published.numbers import KEYS
from localsl.tables.sweep_files import Cell


def of_stage(cell: Cell) -> str:
    """The auxiliary network of the first module that ends in a block of the cell's stage, in the papers' notation."""
    stage = dict(zip(KEYS, cell.keys, strict=True))["variant"].removeprefix("stage=")
    network = build_network(compose(list(cell.overrides)))
    module = next(m for m in network.local_modules if network.names[m.layers[-1]].startswith(f"{stage}."))
    terms = [term for part in module.objective.parts for term in part.terms]
    return " / ".join("-".join(written(term.network)) for term in reversed(terms))


def written(network: nn.Module) -> Iterator[str]:
    """Yield the layers of a network: R residual block, C convolution, AP average pooling, FC linear layer."""
    if isinstance(network, nn.Conv2d):
        yield f"{network.out_channels}C{network.kernel_size[0]}"
    elif isinstance(network, nn.Linear):
        yield f"{network.out_features}FC"
    elif isinstance(network, nn.AdaptiveAvgPool2d | nn.AvgPool2d):
        yield "AP"
    elif isinstance(block := getattr(network, "conv2", None), nn.Conv2d):
        yield f"{block.out_channels}R"
    else:
        for child in network.children():
            yield from written(child)
