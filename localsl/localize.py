"""The library's entry point: cuts any network into gradient-isolated modules, each with its own objective."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from localsl.aux_nets.settings import AuxSettings
from localsl.backbones.wrapping.division import divide
from localsl.backbones.wrapping.tracing import Step, Uncuttable, position
from localsl.backbones.wrapping.wrapped import Outline, WrappedArchitecture, in_mode
from localsl.core.architecture import SCALES
from localsl.core.network import LocalNetwork, build, count_parameters
from localsl.core.partition import Partition, PartitionSettings
from localsl.core.plan import Plan
from localsl.core.settings import wrong_types, wrong_values
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
        K: number of modules of an even split, in place of `cuts`. `BP()` needs neither.
        scale: "cifar" or "imagenet": which auxiliary networks to use where the papers' differ; by default
            "imagenet" for images larger than 64 pixels.
        mean, std: the images' normalisation, per channel, for pixels in [0, 1]; by default none. InfoPro's decoder
            needs them.
        seed: seed of the auxiliary networks' initial weights. Torch's random state is not changed.

    Raises:
        Uncuttable: if the network cannot be cut there; the message names the modules and the reason.
        ValueError: if the method cannot train this network, or the arguments contradict each other.
    """
    _check_arguments(model, method, example, num_classes, cuts, K, scale, mean, std)
    if cuts is None and K is None:
        K = 1
    outline = divide(model, example, cuts or ())
    name = type(model).__name__
    if outline.output != (num_classes,):
        raise ValueError(f"{name} returns outputs of shape {outline.output}, but num_classes={num_classes}")
    if scale is None:
        scale = "imagenet" if example.ndim == 4 and example.shape[-1] > 64 else "cifar"
    architecture = WrappedArchitecture(name, outline, scale)
    ends = None if cuts is None else _ends(outline, cuts)
    # K is the number of modules here, also where AugLocal's code would join the last d layers.
    settings = PartitionSettings(join_last=False)
    partition = Partition(architecture, len(ends) if ends else K or 0, settings, ends=ends)
    method = _resolved(method, partition)
    _check_images(method, example, described=mean is not None and std is not None)
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
        mean=[0.0] * channels if mean is None else [float(value) for value in mean],
        std=[1.0] * channels if std is None else [float(value) for value in std],
        batchnorm_every_forward=method.batchnorm_every_forward,
        segments=method.checkpoint_segments(len(outline.layers)),
    )
    parameter = next(model.parameters())
    network.auxiliary.to(parameter.device, parameter.dtype)
    for buffer in ("_mean", "_std"):
        setattr(network, buffer, getattr(network, buffer).to(parameter.device, parameter.dtype))
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
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton, which takes half a second

    # Without autograd, encoder layers of transformers run as one fused operation, which the counter does not know.
    with in_mode(model, training=False), torch.enable_grad():
        for last, piece in zip(ends[:-1], backbone.layers, strict=False):
            with FlopCounterMode(display=False) as counter:
                x = piece(x)
            flops = counter.get_total_flops() // len(example)
            cuts.append(Cut(_place(steps, last), tuple(x.shape[1:]), count_parameters(piece), flops))
            x = x.detach()
    return Trace(type(model).__name__, tuple(cuts))


def _resolved(method: Method, partition: Partition) -> Method:
    """A copy of the method in which the values that depend on the network are filled in.

    Raises:
        ValueError: if the method cannot train the network; the message lists all problems.
    """
    checked = [method, *([method.aux] if method.aux is not None and method.aux is not method else [])]
    problems = [problem for settings in checked for problem in wrong_types(settings)]
    problems = problems or [problem for settings in checked for problem in wrong_values(settings)]
    problems = problems or list(partition.problems(single_module=method.single_module))
    if not problems:
        method = method.resolved(partition)
        problems = list(method.problems(partition))
    if problems:
        reasons = re.sub(r"\b(aux|ema|method|partition)\.", "", "; ".join(map(str, problems)))
        reasons = reasons.replace("aux_net=", "base=" if method.aux is not method else "head=")
        reasons = reasons.replace("type ", "use ")
        raise ValueError(f"{type(method).__name__} cannot train {partition.architecture.name}: {reasons}")
    return method


def _place(steps: list[Step], end: int) -> str:
    """The shortest name of a cut after a step: that of the outermost module that ends with the step."""
    parts = steps[end].name.split(".")
    names = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next(name for name in names if position(steps, name) == end)


def _check_arguments(
    model: nn.Module,
    method: Method,
    example: Tensor,
    num_classes: int,
    cuts: Sequence[str] | None,
    K: int | None,
    scale: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> None:
    if not isinstance(method, Method):
        raise ValueError(f"method must be a rule with its settings, such as localsl.DGL(), not {method!r}")
    if (cuts is None) == (K is None) and (K is not None or not method.single_module):
        raise ValueError("give either cuts=[names of modules] or K=number of modules")
    if isinstance(cuts, str):
        raise ValueError(f"cuts must be a list of names, such as cuts=[{cuts!r}], not a text")
    if K is not None and (not isinstance(K, int) or isinstance(K, bool)):
        raise ValueError(f"K must be a whole number, not {K!r}")
    base = getattr(method, "base", None)
    if base is not None and not isinstance(base, AuxSettings):
        raise ValueError(
            f"the base of {type(method).__name__} must be DGL(), InfoPro() or PredSim(), not {type(base).__name__}"
        )
    if scale is not None and scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, not {scale!r}")
    if cuts is not None and not cuts:
        raise ValueError(
            "cuts must name at least one module; `localsl.trace` lists those that can be cut after"
        )
    if example.ndim not in (2, 4) or len(example) < 2:
        raise ValueError(
            f"example must be a batch of two or more inputs, (N, C, H, W) or (N, C), not {tuple(example.shape)}"
        )
    if not any(True for _ in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no parameters to train")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, not {num_classes}")
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != example.shape[1]:
            raise ValueError(f"{name} needs one number per channel, {example.shape[1]}, not {len(values)}")


def _check_images(method: Method, example: Tensor, *, described: bool) -> None:
    """Check what decoders and similarities need; `described` says whether mean and std are given."""
    aux, name = method.aux, type(method).__name__
    decodes = aux is not None and any(aux.lambda_reconstruction or [])
    if decodes and not described:
        what = "reconstructs pixels in [0, 1]: give mean= and std= of the images' normalisation"
        raise ValueError(f"{name} {what}, or mean=[0, 0, 0], std=[1, 1, 1] if there is none")
    square = example.ndim != 4 or example.shape[-1] == example.shape[-2]
    if not square and aux is not None and (decodes or aux.head == "predsim"):
        raise ValueError(
            f"{name} needs square images for its auxiliary networks, not {tuple(example.shape[2:])}"
        )


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
