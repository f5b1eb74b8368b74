"""DGL, decoupled greedy learning: each module is trained by the cross-entropy of its own classifier.

Belilovsky, Eickenberg, Oyallon: "Decoupled Greedy Learning of CNNs", ICML 2020. The graph is cut after
every module, and nothing but the auxiliary head differs from backpropagation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localsl.aux_nets import heads
from localsl.methods.base import Method
from localsl.network import Classification, Objective, Site
from localsl.schema import Problem

if TYPE_CHECKING:
    from localsl.config import Config


@dataclass
class Settings(Method):
    """A classifier on each module's output."""

    def problems(self, cfg: Config) -> Iterator[Problem]:
        """Without a head the modules before the last would have no loss."""
        if cfg.aux.head == "none":
            yield Problem("aux_net", "none", "dgl trains every module by a head", "type aux_net=dgl")

    def objective(self, cfg: Config, site: Site) -> Objective:
        """Cross-entropy of the auxiliary head, weight 1."""
        head = heads.build(cfg.aux.head, site, cfg.dataset.num_classes)
        return Objective([Classification(head)])
