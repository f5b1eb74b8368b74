"""The library's entry point: cuts any network into gradient-isolated modules, each with its own objective."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from localsl.backbones.division import divide
from localsl.backbones.tracing import Step, Uncuttable, position
from localsl.backbones.wrapped import Outline, WrappedArchitecture
from localsl.core.network import LocalNetwork, build, count_parameters
from localsl.core.partition import Partition
from localsl.core.plan import Plan
from localsl.core.settings import wrong_values
from localsl.methods.base import Method


def localize(
    model: nn.Module,
    *,
    method: Method,
    num_classes: int,
    example: Tensor,
    cuts: Sequence[str] | None = None,
    K: int | None = None,
    scale: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> LocalNetwork:
    """Cut a network into gradient-isolated local modules, each trained by its own auxiliary network.

    The network is not changed: its `forward`, its parameters and their names stay as they are. Training the result
    trains the network.

        network = localsl.localize(model, method=localsl.AugLocal(depth=3), cuts=["layer1", "layer2"],
                                   num_classes=10, example=images[:2])
        for images, targets in loader:
            optimizer.zero_grad()
            for loss in network.local_losses(images, targets):
                loss.total.backward()
            network.update_ema()
            optimizer.step()

    Args:
        model: takes a batch of images (N, C, H, W) or vectors (N, C), and returns logits (N, num_classes). At every
            cut, a single tensor must pass from one part to the next; `trace` lists where this holds.
        method: a rule and its settings, such as `DGL()`, `AugLocal(depth=3)` or `MAN(base=InfoPro())`.
        num_classes: number of classes of the task.
        example: a batch of at least two inputs, which is run once in evaluation mode to find shapes.
        cuts: names of the modules after which the graph is cut, in the order of the forward pass.
        K: number of modules of an even split, in place of `cuts`.
        scale: "cifar" or "imagenet": which auxiliary networks to use where the papers' differ; by default
            "imagenet" for images larger than 64 pixels.
        mean, std: the images' normalisation, per channel, for pixels in [0, 1]; by default none. InfoPro's decoder
            needs them.
        seed: seed of the auxiliary networks' initial weights. Torch's random state is not changed.

    Raises:
        Uncuttable: if the network cannot be cut there; the message names the modules and the reason.
        ValueError: if the method cannot train this network, or the arguments contradict each other.
    """
    if (cuts is None) == (K is None):
        raise ValueError("give either cuts=[names of modules] or K=number of modules")
    _check_example(model, example, num_classes)
    outline = divide(model, example, cuts or ())
    name = type(model).__name__
    if scale is None:
        scale = "imagenet" if example.ndim == 4 and example.shape[-1] > 64 else "cifar"
    architecture = WrappedArchitecture(name, outline, scale)
    ends = None if cuts is None else _ends(outline, cuts)
    partition = Partition(architecture, len(ends) if ends else K or 0, ends=ends)
    method = _resolved(method, partition)
    if method.aux is not None and any(method.aux.lambda_reconstruction or []) and (mean is None or std is None):
        what = "reconstructs pixels in [0, 1]: give mean= and std= of the images' normalisation"
        raise ValueError(f"{type(method).__name__} {what}, or mean=[0, 0, 0], std=[1, 1, 1] if there is none")
    channels = example.shape[1]
    plan = Plan(
        architecture,
        outline.wrap(model),
        method.groups(partition),
        num_classes,
        example.shape[-1] if example.ndim == 4 else 1,
        channels,
    )
    network = build(
        plan,
        method.objectives,
        seed,
        mean=list(mean or [0.0] * channels),
        std=list(std or [1.0] * channels),
        batchnorm_every_forward=method.batchnorm_every_forward,
        segments=method.checkpoint_segments(len(outline.layers)),
    )
    parameter = next(model.parameters())
    network.auxiliary.to(parameter.device)
    for buffer in ("_mean", "_std"):
        setattr(network, buffer, getattr(network, buffer).to(parameter.device))
    return network


@dataclass(frozen=True)
class Cut:
    """A place where a network can be cut.

    Attributes:
        name: name of the module before it, as `cuts` takes it.
        shape: shape of the features there, without the batch dimension.
        parameters: number of trainable parameters between the previous such place and this one.
        flops: floating-point operations between them for one example; a multiply-add counts as two.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    flops: int


@dataclass(frozen=True)
class Trace:
    """The places where a network can be cut, from input to output; printing it gives a table."""

    model: str
    cuts: tuple[Cut, ...]

    def __iter__(self) -> Iterator[Cut]:
        return iter(self.cuts)

    def __len__(self) -> int:
        return len(self.cuts)

    @property
    def names(self) -> list[str]:
        """The names that `cuts` takes."""
        return [cut.name for cut in self.cuts]

    def __str__(self) -> str:
        rows = [("after", "shape", "parameters", "FLOPs")]
        for cut in self.cuts:
            shape = "x".join(map(str, cut.shape))
            rows.append((cut.name, shape, f"{cut.parameters:,}", f"{cut.flops:.2e}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        ]
        return "\n".join([f"{self.model} can be cut after", *lines])


def trace(model: nn.Module, example: Tensor) -> Trace:
    """List where a network can be cut: after each of its local layers but the last.

    Args:
        model: the network, which is not changed.
        example: a batch of at least two inputs, which is run in evaluation mode.

    Raises:
        Uncuttable: if the network cannot be cut anywhere; the message gives the reason.
    """
    outline = divide(model, example)
    backbone, x, cuts = outline.wrap(model), example, []
    steps = [step for piece in outline.pieces for step in piece]
    ends = [end - 1 for end in accumulate(map(len, outline.pieces))]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton, which takes half a second

    with torch.no_grad():
        for last, piece in zip(ends[:-1], backbone.layers, strict=False):
            with FlopCounterMode(display=False) as counter:
                x = piece(x)
            flops = counter.get_total_flops() // len(example)
            cuts.append(Cut(_place(steps, last), tuple(x.shape[1:]), count_parameters(piece), flops))
    for module, was in modes:
        module.training = was
    return Trace(type(model).__name__, tuple(cuts))


def _resolved(method: Method, partition: Partition) -> Method:
    """A copy of the method in which the values that depend on the network are filled in.

    Raises:
        ValueError: if the method cannot train the network; the message lists all problems.
    """
    checked = [method, *([method.aux] if method.aux is not None and method.aux is not method else [])]
    problems = [problem for settings in checked for problem in wrong_values(settings)]
    problems = problems or list(partition.problems(single_module=method.single_module))
    if not problems:
        method = method.resolved(partition)
        problems = list(method.problems(partition))
    if problems:
        reasons = "; ".join(re.sub(r"\b(aux|ema|method)\.", "", str(problem)) for problem in problems)
        raise ValueError(f"{type(method).__name__} cannot train {partition.architecture.name}: {reasons}")
    return method


def _place(steps: list[Step], end: int) -> str:
    """The shortest name of a cut after a step: that of the outermost module that ends with the step."""
    parts = steps[end].name.split(".")
    names = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next(name for name in names if position(steps, name) == end)


def _check_example(model: nn.Module, example: Tensor, num_classes: int) -> None:
    if example.ndim not in (2, 4) or len(example) < 2:
        raise ValueError(
            f"example must be a batch of two or more inputs, (N, C, H, W) or (N, C), not {tuple(example.shape)}"
        )
    if not any(True for _ in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no parameters to train")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, not {num_classes}")


def _ends(outline: Outline, cuts: Sequence[str]) -> tuple[int, ...]:
    """The index of each module's last local layer."""
    steps = [step for piece in outline.pieces for step in piece]
    places = [position(steps, cut) for cut in cuts]
    if places != sorted(set(places)):
        raise ValueError(f"cuts must be in the order of the forward pass, without repetition: {list(cuts)}")
    stops = [end - 1 for end in accumulate(map(len, outline.pieces))]
    ends = [stops.index(place) for place in places]
    if ends and ends[-1] == len(stops) - 1:
        raise Uncuttable(f"cannot cut after {cuts[-1]!r}: the classifier begins there")
    return (*ends, len(stops) - 1)
