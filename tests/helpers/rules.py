"""Overrides of every rule, and networks trained by one."""

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
    """The command-line overrides of one of RULES."""
    name, *more = rule.split()
    return [f"method={name}", *more, *(["aux.depth=4"] if name == "auglocal" else [])]


def backpropagated(network, images, targets):
    """Backpropagate every local loss of a batch; returns the losses."""
    losses = []
    for loss in network.local_losses(images, targets):
        loss.total.backward()
        losses.append(loss)
    return losses


def totals_of(losses):
    """The total of every loss, as a number."""
    return [float(loss.total.detach()) for loss in losses]


def squared_gradients(network):
    """The sum of the squared gradients of all parameters that have one."""
    return sum(float(p.grad.double().pow(2).sum()) for p in network.parameters() if p.grad is not None)


def filled(*overrides):
    """The network of a configuration, with the weights that the golden values were measured with."""
    network = build_network(compose(["dataset=cifar10", *overrides]))
    golden.fill(network)
    return network
