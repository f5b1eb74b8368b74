"""Floating-point operations of a network: by torch's counter, and as the papers count them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from localsl.config.building import method_of, planned
from localsl.config.schema import Config
from localsl.core.architecture import Backbone
from localsl.core.network import LocalNetwork
from localsl.core.objectives import Objective, Reconstruction, Similarity
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


class _Shapes(TorchFunctionMode):
    """Counts what convolutions and linear layers take in a forward and its backward, without computing them.

    For tensors on the meta device, which have shapes alone. Operations of a plain shape are replaced by views,
    and initial weights are not drawn: on that device both would go through slow Python code of torch's.
    """

    SAME = frozenset({F.batch_norm, F.relu, F.leaky_relu, F.silu, F.dropout, F.dropout2d, torch.sigmoid})
    SUMS = frozenset({Tensor.__add__, Tensor.add, Tensor.__iadd__, Tensor.add_, torch.add})
    COUNTED = frozenset({F.conv2d, F.linear})

    def __init__(self):
        self.total = 0
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.SAME or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else next(iter(kwargs.values()))
        if func in self.SUMS and isinstance(args[1], Tensor) and args[0].shape == args[1].shape:
            return max(args[:2], key=lambda x: x.requires_grad)
        if func is F.adaptive_avg_pool2d and args[1] in (1, (1, 1)):
            return args[0][..., :1, :1]
        if func is F.interpolate and isinstance(kwargs.get("size"), tuple):
            return args[0][..., :1, :1].expand(*args[0].shape[:-2], *kwargs["size"])
        output = _linear(*args[:2]) if func is F.linear else func(*args, **kwargs)
        if func in self.COUNTED:
            x, weight = args[:2]
            passes = 1 + x.requires_grad + weight.requires_grad if output.requires_grad else 1
            self.total += 2 * passes * output.numel() * weight[0].numel()
        return output


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """A tensor of a linear layer's output shape, which requires a gradient where that would."""
    output = x[..., :1].expand(*x.shape[:-1], weight.shape[0])
    trained = torch.is_grad_enabled() and weight.requires_grad
    return output.detach().requires_grad_() if trained and not x.requires_grad else output


def training_flops(cfg: Config) -> int:
    """What a training step costs per image: `Flops.step` within 0.1 %, in a fraction of its time.

    The backward of a convolution or linear layer takes as much as its forward for the gradient of its weights,
    and again for that of its input where one is needed: not in a module's first layer. Products of samples in
    similarity losses are left out.
    """
    backbone, objectives, groups = _described(cfg)
    size = cfg.dataset.image_size
    inputs = {0: torch.empty(1, 3, size, size, device="meta")}
    segments = method_of(cfg).checkpoint_segments(len(cfg.backbone.local_layers()))
    with _Shapes() as counter:
        for index, objective in enumerate(objectives):
            x = inputs[index]
            for part in objective.parts or [None]:
                start = index - part.span + 1 if part else index
                layers = [backbone.layers[i] for group in groups[start : index + 1] for i in group]
                with torch.set_grad_enabled(part is not None):
                    x = nn.Sequential(*layers)(inputs[start])
                    bridged = part.bridge(x) if part and part.bridge is not None else x
                    for term in part.terms if part else []:
                        term.network(bridged)
                if segments:
                    with torch.no_grad():  # the second forward of checkpointed segments
                        nn.Sequential(*layers)(inputs[start])
            inputs[index + 1] = x.detach()
    return counter.total


def _described(cfg: Config) -> tuple[Backbone, list[Objective], list[range]]:
    """The backbone and the objectives of a configuration, without weights, and the layers of each module."""
    with torch.device("meta"), _Shapes():
        plan, method = planned(cfg)
        return plan.backbone, method.objectives(plan), plan.groups


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
