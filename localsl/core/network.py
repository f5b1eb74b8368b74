"""The one network class: a backbone cut into gradient-isolated modules, each with its own objective.

A local rule differs from backpropagation in one thing only: where the graph is cut, and what loss sits at
each cut. Backpropagation is the case of one module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localsl.core.following import FollowingLayer
from localsl.core.initialization import reset, seeded
from localsl.core.learner import Learner, LocalLoss
from localsl.core.objectives import Batch, Objective, weighted_sum
from localsl.core.paths import PathLosses, Segmented, frozen_statistics, path_losses
from localsl.core.plan import Plan


@dataclass(frozen=True)
class LocalModule:
    """A run of local layers between two cuts, and what trains it."""

    index: int
    layers: range
    objective: Objective = field(repr=False)


class Neighbours(Protocol):
    """The processes that hold the other modules of a network, as the process of one stage sees them."""

    def images(self) -> Tensor:
        """The batch's images."""
        ...

    def hand_on(self, features: Tensor) -> None:
        """Take the output of the stage's last module, detached, for the module after it."""
        ...

    def fetch_followed(self) -> None:
        """Bring layers that momentum layers of the stage follow, and other stages train, up to date."""
        ...


class LocalNetwork(Learner):
    """A backbone, its partition into modules, and the auxiliary networks that train them.

    Calling it runs the backbone alone: images (N, 3, H, W), normalised, to logits (N, classes).
    `state_dict()` has the backbone under `backbone.` whatever the rule, the rest under `auxiliary.`.

    Attributes:
        local_modules: all of them.
        neighbours: the other stages; None where all modules are held.
    """

    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        plan: Plan,
        objectives: list[Objective],
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        batchnorm_every_forward: bool = True,
        segments: int = 0,
    ):
        """A network of a plan.

        Args:
            objectives: one per module.
            mean, std: per channel, by which images were normalised, in units of a pixel's whole range [0, 1].
            batchnorm_every_forward: whether each of several forwards of a layer in one step moves its statistics.
            segments: in how many pieces a module's forward is recomputed in its backward; 0 for none.
        """
        super().__init__()
        self.backbone = plan.backbone
        self.names = [layer.name for layer in plan.layers]
        classifier = plan.backbone.classifier
        self.auxiliary = nn.ModuleList(objective.networks(but=classifier) for objective in objectives)
        self.local_modules: list[LocalModule] = [
            LocalModule(index, layers, objective)
            for index, (layers, objective) in enumerate(zip(plan.groups, objectives, strict=True))
        ]
        self._held: Sequence[LocalModule] = self.local_modules
        self.neighbours: Neighbours | None = None
        self._classes = plan.num_classes
        for name, values in (("_mean", mean), ("_std", std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)
        self._count_every_forward = batchnorm_every_forward
        self._segments = segments
        self._momentum_layers = self.following()
        self.path_losses: PathLosses = path_losses  # or the same compiled

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the plain backbone; no auxiliary network runs.

        A stage takes its first module's input, and returns its last module's output, which it hands on too.
        """
        if self.neighbours is None:
            return self.backbone(images)
        features = images
        for module in self.held:
            features = nn.Sequential(*self.layers_of(module))(features)
        if self.holds_output:
            return self.backbone.classifier(features)
        self.neighbours.hand_on(features)
        return features

    def local_losses(self, images: Tensor, targets: Tensor) -> Iterator[LocalLoss]:
        """The loss of every module that has one, in turn, each on a graph of its own.

        The caller backpropagates each before asking for the next. That frees the module's graph before the
        next one is built, which is all the memory that local learning saves: summing the losses would need
        more than backpropagation does.

        Args:
            images: normalised, (N, 3, H, W); of a stage what its first module takes.
            targets: class indices, (N,) int64.
        """
        self.backbone.refresh()
        seen = images if self.neighbours is None else self.neighbours.images()
        batch = Batch(seen, targets, self._mean, self._std, self._classes)
        reach = max((p.span for m in self.held for p in m.objective.parts), default=1)
        inputs = {self.held[0].index: images}  # of the modules that a later graph can begin with, detached
        for module in self.held:
            yield from self._losses(module, inputs, batch)
            inputs.pop(module.index - reach + 1, None)

    def _losses(self, module: LocalModule, inputs: dict[int, Tensor], batch: Batch) -> Iterator[LocalLoss]:
        """Run one module, leave its detached output in `inputs`, and yield its loss if it has one."""
        index, parts = module.index, module.objective.parts
        terms: dict[str, Tensor] = {}
        correct = features = None
        for part in parts:
            part.prepare(batch)
            start = index - part.span + 1
            passed = self.local_modules[start : index + 1]
            # A module's first forward is the one of its own turn: the others see the same batch again.
            again = passed[:-1] if part is parts[0] else passed
            frozen = [] if self._count_every_forward else [x for m in again for x in self.layers_of(m)]
            with frozen_statistics(frozen):
                features, found, right = self.path_losses(self._path(passed), part, inputs[start], batch)
            terms |= found
            correct = correct if right is None else right
        if features is None:
            with torch.no_grad():
                features = nn.Sequential(*self.layers_of(module))(inputs[index])
        inputs[index + 1] = dropped(features.detach(), module.objective.dropout, self.training)
        if self.neighbours is not None and module is self.held[-1]:
            self.neighbours.hand_on(inputs[index + 1])
        if parts:
            weights = module.objective.weights
            loss = LocalLoss(index, weighted_sum(terms, weights), terms, weights, correct)
            del features, terms  # what the loss no longer needs must not outlive its backward
            yield loss

    def layers_of(self, module: LocalModule) -> list[nn.Module]:
        """The backbone's layers of a module."""
        return [self.backbone.layers[i] for i in module.layers]

    def _path(self, modules: list[LocalModule]) -> nn.Module:
        layers = [layer for module in modules for layer in self.layers_of(module)]
        return Segmented(layers, self._segments) if self._segments else nn.Sequential(*layers)

    def following(self, modules: Sequence[LocalModule] | None = None) -> list[FollowingLayer]:
        """The momentum layers of these modules, or of all that are held."""
        auxiliaries = (self.auxiliary[module.index] for module in modules or self.held)
        return [m for auxiliary in auxiliaries for m in auxiliary.modules() if isinstance(m, FollowingLayer)]

    def update_ema(self, layers: Sequence[FollowingLayer] | None = None) -> None:
        """Move every momentum layer towards the layer it follows: once per step, after the last backward and
        before the optimizer's step, so that it sees the weights that the losses were computed with.

        Args:
            layers: move these alone.
        """
        moved = self._momentum_layers if layers is None else layers
        if moved and self.neighbours is not None:
            self.neighbours.fetch_followed()
        for layer in moved:
            layer.update()

    @property
    def held(self) -> Sequence[LocalModule]:
        """The modules that this process trains: all, unless `restrict` left a stage of them."""
        return self._held

    def restrict(self, modules: range, neighbours: Neighbours) -> None:
        """Hold these modules and no others: the rest of the weights go to the meta device, and take no memory.

        The layers of other modules that momentum layers follow stay, as copies that do not train.
        """
        self._held = self.local_modules[modules.start : modules.stop]
        self.neighbours = neighbours
        self._momentum_layers = self.following()
        kept = nn.ModuleList([layer for module in self.held for layer in self.layers_of(module)])
        kept.extend(self.auxiliary[module.index] for module in self.held)
        if self.holds_output:
            kept.append(self.backbone.classifier)
        trained = {id(tensor) for tensor in (*kept.parameters(), *kept.buffers())}
        named = self.state_dict(keep_vars=True).items()
        self._held_names = [name for name, tensor in named if id(tensor) in trained]
        followed = nn.ModuleList([layer.live for layer in self._momentum_layers])
        present = trained | {id(tensor) for tensor in (*followed.parameters(), *followed.buffers())}
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) not in present:
                    away = torch.empty_like(parameter, device="meta")
                    module._parameters[name] = nn.Parameter(away, requires_grad=False)
                elif id(parameter) not in trained:
                    parameter.requires_grad_(False)
            for name, buffer in module.named_buffers(recurse=False):
                if id(buffer) not in present and module is not self:
                    module._buffers[name] = torch.empty_like(buffer, device="meta")

    def held_state(self) -> dict[str, Tensor]:
        """The entries of `state_dict()` that this process trains, or that its training moves."""
        state = self.state_dict()
        return state if self.neighbours is None else {name: state[name] for name in self._held_names}

    @torch.no_grad()
    def load_held(self, state: dict[str, Tensor]) -> None:
        """Take from a whole network's `state_dict()` what is held, and the layers that it follows."""
        if self.neighbours is None:
            self.load_state_dict(state)
            return
        for name, tensor in self.state_dict().items():
            if not tensor.is_meta:
                tensor.copy_(state[name])

    @property
    def holds_output(self) -> bool:
        """Whether the last module, whose output are logits, is held."""
        return self.held[-1] is self.local_modules[-1]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._mean.device

    def modules_table(self) -> list[dict[str, Any]]:
        """One row a module: its layers, its auxiliary networks and the parameters of both.

        The classifier's parameters are the last module's. Parameters are counted that gradients train.
        """
        rows: list[dict[str, Any]] = []
        for module in self.local_modules:
            aux = cast("nn.ModuleDict", self.auxiliary[module.index])
            own = sum(count_parameters(layer) for layer in self.layers_of(module))
            if module is self.local_modules[-1]:
                own += count_parameters(self.backbone.classifier)
            rows.append(
                {
                    "module": module.index,
                    "layers": " ".join(self.names[i] for i in module.layers),
                    "aux": " + ".join(summary(network) for network in aux.values()) or "-",
                    "parameters": own,
                    "aux_parameters": count_parameters(aux),
                }
            )
        return rows


def dropped(features: Tensor, probability: float, training: bool) -> Tensor:
    """Features with whole channels of images, and single values of anything else, dropped in training."""
    if not probability:
        return features
    drop = F.dropout2d if features.ndim == 4 else F.dropout
    return drop(features, probability, training)


def summary(network: nn.Module) -> str:
    """What kind of auxiliary network this is, in a few words."""
    if isinstance(network, nn.Sequential) and type(network) is nn.Sequential:
        return " ".join(summary(layer) for layer in network)
    told = getattr(network, "summary", None)
    return f"{type(network).__name__} ({told()})" if callable(told) else type(network).__name__


def count_parameters(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def build(
    plan: Plan, objectives: Callable[[Plan], list[Objective]], seed: int, **settings: Any
) -> LocalNetwork:
    """The network of a plan with the initial weights of its auxiliary networks, a function of the seed.

    Each module's auxiliary networks have random numbers of their own. Torch's random state is left as it was.

    Args:
        objectives: makes one objective per module of the plan.
        settings: what `LocalNetwork` takes beside them.
    """
    with seeded(seed, "unused"):  # building draws numbers too: they are drawn again below
        network = LocalNetwork(plan, objectives(plan), **settings)
    for index, auxiliary in enumerate(network.auxiliary):
        with seeded(seed, "auxiliary", index):
            reset(auxiliary)
            plan.architecture.start_auxiliary(auxiliary)
        for layer in auxiliary.modules():
            if isinstance(layer, FollowingLayer):
                layer.start()
    return network
