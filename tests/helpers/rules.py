"""Every rule, and networks under one."""

from localsl.config import compose
from localsl.network import build_network
from tests.helpers import golden

RULES = [
    "bp",
    "bp_checkpoint",
    "dgl",
    "predsim",
    "predsim_original",
    "infopro",
    "auglocal",
    "man",
    "man aux_net=infopro",
]
RULES += ["man aux_net=predsim", "man_released", "mlaan", "mlaan aux_net=dgl", "mlaan aux_net=infopro", "mlm"]
RULES += ["lam", "mlaan_released", "mlaan_released aux_net=dgl_big", "mlaan_released aux_net=infopro"]


def overrides_of(rule):
    """What is typed for one of RULES."""
    name, *more = rule.split()
    return [f"method={name}", *more, *(["aux.depth=4"] if name == "auglocal" else [])]


def backpropagated(network, images, targets):
    """The losses of a batch, each backpropagated."""
    seen = []
    for loss in network.local_losses(images, targets):
        loss.total.backward()
        seen.append(loss)
    return seen


def filled(*overrides):
    """The network of a configuration, filled as the golden values need it."""
    network = build_network(compose(["dataset=cifar10", *overrides]))
    golden.fill(network)
    return network
