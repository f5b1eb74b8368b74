"""The operations of a training step, per module, counted from tensor shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from localsl.core.architecture import Backbone
from localsl.core.objectives import Objective


class ShapesOnly(TorchFunctionMode):
    """Counts the operations of convolutions and linear layers, forward and backward, without computing them.

    It works on the meta device, whose tensors have a shape but no data. Operations whose output shape is obvious
    are replaced by views and weights are not initialised, because torch runs slow Python code for both there.
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
    """A tensor with the shape and the `requires_grad` of a linear layer's output."""
    output = x[..., :1].expand(*x.shape[:-1], weight.shape[0])
    trained = torch.is_grad_enabled() and weight.requires_grad
    return output.detach().requires_grad_() if trained and not x.requires_grad else output


def of_modules(
    backbone: Backbone,
    objectives: Sequence[Objective],
    groups: Sequence[range],
    image_size: int,
    segments: int = 0,
) -> list[int]:
    """The operations of a training step per image, for each module; a multiply-add counts as two operations.

    The backward pass of a convolution or linear layer takes as many operations as its forward pass for the gradient
    of its weights, and as many again for the gradient of its input, which a module's first layer does not need.
    Products between the samples of a batch, in similarity losses, are not counted.

    Args:
        backbone, objectives: on the meta device, built under `ShapesOnly`.
        groups: the local layers of each module.
        segments: into how many segments a module is divided for recomputation in the backward pass; 0 for none.
    """
    inputs = {0: torch.empty(1, 3, image_size, image_size, device="meta")}
    totals: list[int] = []
    with ShapesOnly() as counter:
        for index, objective in enumerate(objectives):
            before, x = counter.total, inputs[index]
            for part in objective.parts or [None]:
                start = index - part.span + 1 if part else index
                layers = [backbone.layers[i] for group in groups[start : index + 1] for i in group]
                with torch.set_grad_enabled(part is not None):
                    x = nn.Sequential(*layers)(inputs[start])
                    bridged = part.bridge(x) if part and part.bridge is not None else x
                    for term in part.terms if part else ():
                        term.network(bridged)
                if segments:
                    with torch.no_grad():  # the recomputation of the segments
                        nn.Sequential(*layers)(inputs[start])
            inputs[index + 1] = x.detach()
            totals.append(counter.total - before)
    return totals
