"""Floating-point operations of a network, counted by torch's counter and as in the papers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from localsl.config.building import module_operations
from localsl.config.schema import Config
from localsl.core.network import LocalNetwork
from localsl.core.objectives import Reconstruction, Similarity
from localsl.measure.fake import fake_run
from localsl.train.step import train_step

POOLING = nn.AdaptiveAvgPool2d | nn.AvgPool2d


@dataclass(frozen=True)
class Flops:
    """Operations per image of convolutions and matrix products; a multiplication and an addition count as two.

    Attributes:
        forward: an evaluation of the network.
        step: a training step.
        step_main: the part of `step` for one forward and backward pass of the network itself, without gradients of
            module inputs; the rest is auxiliary networks and repeated forward passes of cascades.
        papers: multiply-adds as counted in AugLocal's tables, see `papers_count`.
    """

    forward: int
    step: int
    step_main: int
    papers: int

    @property
    def step_auxiliary(self) -> int:
        """The operations that local learning adds to a step."""
        return self.step - self.step_main


def flops(cfg: Config) -> Flops:
    """Count the operations of a configuration on tensors without data."""
    from torch.utils.flop_counter import FlopCounterMode  # imported late: importing Triton takes half a second

    batch = 2
    with fake_run(cfg, batch) as run:
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            run.network(run.images)
        with FlopCounterMode(display=False) as step:
            for _ in train_step(run.network, run.optimizer, run.images, run.targets):
                pass
        with FlopCounterMode(display=False) as main:
            _train_alone(run.network, run.images)
        papers = papers_count(run.network, cfg.dataset.image_size)
    counts = [counter.get_total_flops() // batch for counter in (forward, step, main)]
    return Flops(counts[0], counts[1], counts[2], papers)


def _train_alone(network: LocalNetwork, images: Tensor) -> None:
    """Run the forward and backward pass of each module's layers, with an arbitrary loss on its output."""
    x = images
    for module in network.local_modules:
        for index in module.layers:
            x = network.backbone.layers[index](x)
        last = module is network.local_modules[-1]
        (network.backbone.classifier(x) if last else x).sum().backward()
        x = x.detach()


def training_flops(cfg: Config) -> int:
    """The operations of a training step per image: `Flops.step` within 0.1 %, computed in a fraction of the time."""
    return sum(module_operations(cfg))


def papers_count(network: LocalNetwork, size: int, auxiliary: bool = True) -> int:
    """Multiply-adds per image of the evaluated network with its auxiliary heads, counted as in AugLocal's tables.

    Convolutions and linear layers count, and, as in that paper's tool, two operations per output value of BatchNorm
    and one per input value of pooling. Decoders and similarity branches, which run in training only, do not count.
    Without `auxiliary` only the network itself counts.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d | nn.Linear):
            total += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, _BatchNorm):
            total += 2 * output.numel()
        elif isinstance(layer, POOLING):
            total += inputs[0].numel()

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if not [*layer.children()]]
    network.eval()
    with torch.no_grad():
        x = torch.zeros(1, 3, size, size)
        for module in network.local_modules:
            for index in module.layers:
                x = network.backbone.layers[index](x)
            for part in module.objective.parts if auxiliary else []:
                bridged = x if part.bridge is None else part.bridge(x)
                for term in part.terms:
                    if not isinstance(term, Reconstruction | Similarity):
                        term.network(bridged)
        if not auxiliary:
            network.backbone.classifier(x)
    for hook in hooks:
        hook.remove()
    network.train()
    return total
