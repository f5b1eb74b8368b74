"""Supervised local learning: networks cut into gradient-isolated modules, each with its own objective.

import localsl
network = localsl.localize(model, method=localsl.AugLocal(depth=3), K=4, num_classes=10, example=images[:2])
"""

from localsl.backbones.wrapping.tracing import Uncuttable
from localsl.core.learner import LocalLoss
from localsl.core.network import LocalNetwork
from localsl.core.settings import ConfigError
from localsl.localize import Cut, Trace, localize, trace
from localsl.methods import HeadMethod, Method, register
from localsl.methods.auglocal import AugLocal
from localsl.methods.bp import BP
from localsl.methods.bp_checkpoint import CheckpointedBP
from localsl.methods.dgl import DGL
from localsl.methods.infopro import InfoPro
from localsl.methods.man import MAN
from localsl.methods.mlaan import MLAAN
from localsl.methods.predsim import PredSim

__all__ = [
    "BP",
    "DGL",
    "MAN",
    "MLAAN",
    "AugLocal",
    "CheckpointedBP",
    "ConfigError",
    "Cut",
    "HeadMethod",
    "InfoPro",
    "LocalLoss",
    "LocalNetwork",
    "Method",
    "PredSim",
    "Trace",
    "Uncuttable",
    "localize",
    "register",
    "trace",
]
