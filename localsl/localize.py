"""The library's door: any network cut into gradient-isolated modules, each with its own objective."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from localsl.backbones import wrapped
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

    The network is not changed: its `forward`, its parameters and their names stay as they are, and training the
    result trains it.

        network = localsl.localize(model, method=localsl.AugLocal(depth=3), cuts=["layer1", "layer2"],
                                   num_classes=10, example=images[:2])
        for images, targets in loader:
            optimizer.zero_grad()
            for loss in network.local_losses(images, targets):
                loss.total.backward()
            network.update_ema()
            optimizer.step()

    Args:
        model: takes a batch of images (N, C, H, W), or of vectors (N, C), and returns logits (N, num_classes). Its
            parts must run one after another at the cuts; `trace` lists where they do.
        method: a rule and its settings, such as `DGL()`, `AugLocal(depth=3)` or `MAN(base=InfoPro())`.
        num_classes: of the task.
        example: a batch of two or more that shows shapes; it is run once in evaluation mode and trains nothing.
        cuts: names of the modules after which the graph is cut, in the order of the forward pass.
        K: number of modules of an even split, in place of `cuts`.
        scale: "cifar" or "imagenet": whose auxiliary networks are meant where the papers' differ; by default
            "imagenet" for images above 64 pixels.
        mean, std: per channel, of the normalisation of images whose pixels are in [0, 1]; InfoPro's decoder needs
            them. 0 and 1 where there is none.
        seed: of the auxiliary networks' initial weights. Torch's random state is left as it was.

    Raises:
        Uncuttable: if the network cannot be cut there, naming the modules and the reason.
        ValueError: if the method cannot work with this network, or arguments do not go together.
    """
    if (cuts is None) == (K is None):
        raise ValueError("give either cuts=[names of modules] or K=number of modules")
    _check_example(model, example, num_classes)
    found = wrapped.outline(model, example, cuts or ())
    name = type(model).__name__
    if scale is None:
        scale = "imagenet" if example.ndim == 4 and example.shape[-1] > 64 else "cifar"
    architecture = WrappedArchitecture(name, found, scale)
    ends = None if cuts is None else _ends(found, cuts)
    partition = Partition(architecture, len(ends) if ends else K or 0, ends=ends)
    method = _fitted(method, partition)
    if method.aux is not None and any(method.aux.lambda_reconstruction or []) and (mean is None or std is None):
        what = "restores pixels in [0, 1]: give mean= and std= of the images' normalisation"
        raise ValueError(f"{type(method).__name__} {what}, mean=[0, 0, 0], std=[1, 1, 1] if there is none")
    channels = example.shape[1]
    plan = Plan(
        architecture,
        found.of(model),
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
        segments=method.checkpoint_segments(len(found.layers)),
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
        name: of the module after which it lies, to be given in `cuts`.
        shape: of the features there, without the batch.
        parameters: of the network since the place before.
        flops: of them, for one example: multiplications and additions, one each.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    flops: int


@dataclass(frozen=True)
class Trace:
    """Where a network can be cut, from input to output; printing it gives a table."""

    model: str
    cuts: tuple[Cut, ...]

    def __iter__(self) -> Iterator[Cut]:
        return iter(self.cuts)

    def __len__(self) -> int:
        return len(self.cuts)

    @property
    def names(self) -> list[str]:
        """What can be given in `cuts`."""
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
    """Where a network can be cut: after each of its local layers but the last.

    Args:
        example: as for `localize`.

    Raises:
        Uncuttable: if it cannot be cut anywhere, with the reason.
    """
    found = wrapped.outline(model, example)
    backbone, x, cuts = found.of(model), example, []
    steps = [step for piece in found.pieces for step in piece]
    ends = [end - 1 for end in accumulate(map(len, found.pieces))]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton, half a second

    with torch.no_grad():
        for last, piece in zip(ends[:-1], backbone.layers, strict=False):
            with FlopCounterMode(display=False) as counter:
                x = piece(x)
            flops = counter.get_total_flops() // len(example)
            cuts.append(Cut(_place(steps, last), tuple(x.shape[1:]), count_parameters(piece), flops))
    for module, was in modes:
        module.training = was
    return Trace(type(model).__name__, tuple(cuts))


def _fitted(method: Method, partition: Partition) -> Method:
    """The method with what it takes from the network filled in.

    Raises:
        ValueError: with everything that keeps it from training the network.
    """
    given = [method, *([method.aux] if method.aux is not None and method.aux is not method else [])]
    problems = [problem for settings in given for problem in wrong_values(settings)]
    problems = problems or list(partition.problems(single_module=method.single_module))
    if not problems:
        method = method.resolved(partition)
        problems = list(method.problems(partition))
    if problems:
        told = "; ".join(re.sub(r"\b(aux|ema|method)\.", "", str(problem)) for problem in problems)
        raise ValueError(f"{type(method).__name__} cannot train {partition.architecture.name}: {told}")
    return method


def _place(steps: list[Step], end: int) -> str:
    """The shortest name for a cut after a step: of the outermost module that ends with it."""
    parts = steps[end].name.split(".")
    names = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next(name for name in names if position(steps, name) == end)


def _check_example(model: nn.Module, example: Tensor, num_classes: int) -> None:
    if example.ndim not in (2, 4) or len(example) < 2:
        raise ValueError(
            f"example must be a batch of two or more, (N, C, H, W) or (N, C), not {tuple(example.shape)}"
        )
    if not any(True for _ in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no parameters to train")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, not {num_classes}")


def _ends(found: Outline, cuts: Sequence[str]) -> tuple[int, ...]:
    """The index of every module's last local layer."""
    steps = [step for piece in found.pieces for step in piece]
    places = [position(steps, cut) for cut in cuts]
    if places != sorted(set(places)):
        raise ValueError(
            f"cuts must follow each other in the order of the forward pass, without repetition: {list(cuts)}"
        )
    stops = [end - 1 for end in accumulate(map(len, found.pieces))]
    ends = [stops.index(place) for place in places]
    if ends and ends[-1] == len(stops) - 1:
        raise Uncuttable(f"cannot cut after {cuts[-1]!r}: the classifier begins there")
    return (*ends, len(stops) - 1)
