"""Floating-point operations of a network: by torch's counter, and as the papers count them."""

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
    """Per image, multiplications and additions one each, of convolutions and matrix products.

    Attributes:
        forward: of the network in evaluation.
        step: of a training step.
        step_main: of that, one forward and backward of the network itself, each module's input without a
            gradient; the rest is auxiliary networks, and second forwards of cascades.
        papers: as AugLocal's tables count, in multiply-adds: `papers_count`.
    """

    forward: int
    step: int
    step_main: int
    papers: int

    @property
    def step_auxiliary(self) -> int:
        """What local learning adds to a step."""
        return self.step - self.step_main


def flops(cfg: Config) -> Flops:
    """Counted on tensors without data."""
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton, half a second

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
    """Forward and backward of each module's layers, from any loss on its output."""
    x = images
    for module in network.local_modules:
        for index in module.layers:
            x = network.backbone.layers[index](x)
        last = module is network.local_modules[-1]
        (network.backbone.classifier(x) if last else x).sum().backward()
        x = x.detach()


def training_flops(cfg: Config) -> int:
    """What a training step costs per image: `Flops.step` within 0.1 %, in a fraction of its time."""
    return sum(module_operations(cfg))


def papers_count(network: LocalNetwork, size: int, auxiliary: bool = True) -> int:
    """Multiply-adds per image of the evaluated network with its auxiliary heads, as AugLocal's tables count.

    Of convolutions and linear layers, and, as that paper's tool adds them, two per value that BatchNorm gives
    and one per value that pooling takes. Decoders and similarity branches, which run in training only, are
    left out; without `auxiliary` so is all but the network itself.
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
