"""The division of any network into local layers: its blocks, a stem before them, and a classifier."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from localsl.backbones.wrapping import tracing
from localsl.backbones.wrapping.tracing import Step, Uncuttable
from localsl.backbones.wrapping.wrapped import Outline, in_mode
from localsl.core.architecture import LocalLayer


def divide(
    model: nn.Module,
    example: Tensor,
    cuts: Iterable[str] = (),
) -> Outline:
    """Divide a network into local layers, one of which ends at each of `cuts`.

    Args:
        model: the network; it is not changed.
        example: a batch of inputs, which is run once in evaluation mode.
        cuts: names of modules after which to cut.

    Raises:
        Uncuttable: if the network is not a chain of layers, or cannot be cut at one of the cuts.
    """
    cuts = list(cuts)
    with in_mode(model, training=True):
        steps = tracing.steps(model, cuts)
    _check_shared(steps)
    features, changes = _run(model, steps, example)
    layouts = ["image" if example.ndim == 4 else _layout(None, example)]
    for step, output in zip(steps, features[1:], strict=True):
        layouts.append(_layout(step, output, layouts[-1]))
    head = _head(steps, features, layouts)
    ends = {tracing.position(steps, cut) for cut in cuts}
    late = [cut for cut in cuts if tracing.position(steps, cut) >= head - (head == len(steps))]
    if late:
        raise Uncuttable(f"cannot cut after {late[0]!r}: the classifier begins there")
    groups = _split(_grouped(steps[:head]), ends)
    if len(groups) < 2:
        raise Uncuttable(f"{type(model).__name__} cannot be cut: it has fewer than two layers with weights")
    rest = steps[sum(map(len, groups)) :]
    layers, sizes, shapes, inputs, in_place, begin, stage = [], [], [], [], [], 0, 1
    for group in groups:
        end = begin + len(group)
        before, after, layout = features[begin], features[end], layouts[end]
        stride = _stride(before, after, layouts[begin], layout)
        is_stem = (
            not layers and all(step.heavy < 2 for step in group) and any(s.heavy > 1 for s in steps[:head])
        )
        stage += bool(layers) and stride > 1 and not (len(layers) == 1 and layers[0].is_stem)
        cut_here = end - 1 in ends
        name = group[-1].name if cut_here else max(group, key=lambda step: step.heavy).name
        channels = after.shape[1 if layout in ("image", "vector") else -1]
        layers.append(LocalLayer(name, channels, stride, stage, is_stem, layout))
        sizes.append(size(after, layout))
        shapes.append((tuple(before.shape[1:]), tuple(after.shape[1:])))
        inputs.append(layouts[begin])
        in_place.append(changes[begin] < end)
        begin = end
    in_place.append(changes[begin] < len(steps))
    return Outline(layers, sizes, groups, rest, shapes, inputs, tuple(features[-1].shape[1:]), in_place)


def _run(model: nn.Module, steps: list[Step], example: Tensor) -> tuple[list[Tensor], list[int]]:
    """Run the steps in evaluation mode.

    Returns:
        The input of every step and the output of the last; and for each of them the index of the first step that
        changes it in place, or the number of steps.

    Raises:
        Uncuttable: if a step does not take the features, or does not return one tensor.
    """
    features = [example.clone()]
    versions, changes = [features[0]._version], [len(steps)]
    with torch.no_grad(), in_mode(model, training=False):
        for index, step in enumerate(steps):
            try:
                output = step.module(features[-1])
            except (RuntimeError, AssertionError, ValueError) as error:
                what = f"{step.name!r} of {type(model).__name__} cannot take the example's features"
                raise Uncuttable(f"{what}, {tuple(features[-1].shape)}: {error}") from error
            if not isinstance(output, Tensor):
                raise Uncuttable(
                    f"{type(model).__name__} cannot be cut: {step.name!r} does not return one tensor"
                )
            drops = _drops_in_place(step.module)
            for before, (x, version) in enumerate(zip(features, versions, strict=True)):
                if x._version > version or (drops and _same_storage(x, features[-1])):
                    changes[before] = min(changes[before], index)
            features.append(output)
            versions.append(output._version)
            changes.append(len(steps))
    return features, changes


def _drops_in_place(module: nn.Module) -> bool:
    """Whether it contains dropout that changes its input, which evaluation does not show."""
    return any(isinstance(m, _DropoutNd) and m.inplace for m in module.modules())


def _same_storage(x: Tensor, y: Tensor) -> bool:
    return x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


def _check_shared(steps: list[Step]) -> None:
    """Refuse steps that share weights, since a cut could put them into different modules."""
    owner: dict[nn.Parameter, str] = {}
    for step in steps:
        for parameter in step.module.parameters():
            if owner.setdefault(parameter, step.name) != step.name:
                raise Uncuttable(f"cannot be cut: {owner[parameter]!r} and {step.name!r} share weights")


def _layout(step: Step | None, x: Tensor, before: str = "image") -> str:
    """The layout of a step's output; for four dimensions, that of its last layer with weights, or as `before`."""
    if x.ndim == 2:
        return "vector"
    if x.ndim == 3:
        return "tokens"
    if x.ndim != 4:
        raise Uncuttable(f"features of {x.ndim} dimensions are neither images, maps, tokens nor vectors")
    for module in reversed(list(step.module.modules()) if step else []):
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm):
            return "image"
        if isinstance(module, nn.Linear | nn.LayerNorm):
            width = module.out_features if isinstance(module, nn.Linear) else module.normalized_shape[-1]
            if x.shape[-1] != x.shape[1]:
                return "map" if x.shape[-1] == width else "image"
    return before if before in ("image", "map") else "image"


def size(x: Tensor, layout: str) -> int:
    """The width in pixels of features of a layout; for tokens their number, for vectors 1."""
    return {"image": x.shape[-1], "map": x.shape[-2], "tokens": x.shape[1], "vector": 1}[layout]


def _stride(before: Tensor, after: Tensor, was: str, now: str) -> int:
    """The factor by which a layer downsamples; 1 where features become or already are tokens or vectors."""
    grid = ("image", "map")
    return max(1, round(size(before, was) / size(after, now))) if was in grid and now in grid else 1


def _head(steps: list[Step], features: list[Tensor], layouts: list[str]) -> int:
    """The index of the classifier's first step: a flattening or global pooling, else the last with weights."""
    for i in range(len(steps)):
        before, after = features[i], features[i + 1]
        flattened = layouts[i + 1] == "vector" != layouts[i]
        pooled = layouts[i] == "image" == layouts[i + 1] and after.shape[-1] == 1 < before.shape[-1]
        if flattened or pooled:
            return i
    return max((i for i, step in enumerate(steps) if step.heavy), default=len(steps))


def _grouped(steps: list[Step]) -> list[list[Step]]:
    """The steps of each local layer.

    A block is a step with at least two weighted layers. It ends a local layer, which the steps before it belong to.
    Steps before the first block form the stem if they have weights. In a network without blocks, every weighted layer
    begins a local layer.
    """
    if all(step.heavy < 2 for step in steps):
        return _grouped_by_weights(steps)
    groups: list[list[Step]] = []
    lead: list[Step] = []
    for step in steps:
        if step.heavy > 1:
            if not groups and any(before.heavy for before in lead):
                groups, lead = [lead], []
            groups.append([*lead, step])
            lead = []
        else:
            lead.append(step)
    if any(step.heavy for step in lead):
        return [*groups, lead]
    groups[-1].extend(lead)
    return groups


def _grouped_by_weights(steps: list[Step]) -> list[list[Step]]:
    """The steps of each local layer of a network without blocks.

    Every weighted layer begins a local layer, or the pooling before it does.
    """
    groups: list[list[Step]] = []
    lead: list[Step] = []
    for step in steps:
        pools = "pool" in type(step.module).__name__.lower()
        if step.heavy:
            groups.append([*lead, step])
            lead = []
        elif lead or not groups or pools:
            lead.append(step)
        else:
            groups[-1].append(step)
    if lead and groups:
        groups[-1].extend(lead)
    return groups


def _split(groups: list[list[Step]], ends: set[int]) -> list[list[Step]]:
    """The groups, divided at cuts that fall inside one; `ends` are the indices of steps before cuts."""
    divided, begin = [], 0
    for group in groups:
        parts: list[list[Step]] = [[]]
        for offset, step in enumerate(group):
            parts[-1].append(step)
            if begin + offset in ends:
                parts.append([])
        divided += [part for part in parts if part]
        begin += len(group)
    return divided
