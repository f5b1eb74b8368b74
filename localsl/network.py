"""Re-exports `build_network`, which builds the network of a configuration, and the classes around it."""

from localsl.config.building import build_network
from localsl.core.learner import LocalLoss
from localsl.core.network import LocalNetwork, count_parameters

__all__ = ["LocalLoss", "LocalNetwork", "build_network", "count_parameters"]
