"""The network class of all rules: a backbone cut into gradient-isolated modules, each with its own objective.

A local rule differs from backpropagation only in where the graph is cut and in the loss at each cut.
Backpropagation is the case of one module.
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
    """Consecutive local layers between two cuts, and the objective that trains them."""

    index: int
    layers: range
    objective: Objective = field(repr=False)


class Neighbours(Protocol):
    """The other stages of a pipeline, as seen by the process that holds one stage of the network."""

    def images(self) -> Tensor:
        """The images of the current batch."""
        ...

    def hand_on(self, features: Tensor) -> None:
        """Pass the detached output of the stage's last module to the next stage."""
        ...

    def fetch_followed(self) -> None:
        """Update the local copies of layers that momentum layers here follow but other stages train."""
        ...


class LocalNetwork(Learner):
    """A backbone, its partition into modules, and the auxiliary networks that train them.

    Calling it runs the backbone alone, from normalised images (N, 3, H, W) to logits (N, classes). With every rule
    `state_dict()` has the backbone's entries under `backbone.` and the auxiliary networks' under `auxiliary.`.

    Attributes:
        local_modules: all modules, those of other pipeline stages included.
        neighbours: the other pipeline stages; None if this process holds all modules.
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
        """Build the network of a plan.

        Args:
            plan: the backbone and its cuts.
            objectives: one per module.
            mean, std: the images' normalisation, per channel, for pixels in [0, 1].
            batchnorm_every_forward: whether BatchNorm's running statistics are updated by every forward pass of a
                layer in a step, or by the first alone.
            segments: into how many segments a module is divided for recomputation in the backward pass; 0 for none.
        """
        super().__init__()
        self.backbone = plan.backbone
        self.names = [layer.name for layer in plan.layers]
        classifier = plan.backbone.classifier
        self.auxiliary = nn.ModuleList(objective.networks(exclude=classifier) for objective in objectives)
        self.local_modules: list[LocalModule] = [
            LocalModule(index, layers, objective)
            for index, (layers, objective) in enumerate(zip(plan.groups, objectives, strict=True))
        ]
        self._held: Sequence[LocalModule] = self.local_modules
        self.neighbours: Neighbours | None = None
        self._classes = plan.num_classes
        for name, values in (("_mean", mean), ("_std", std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)
        self._update_every_forward = batchnorm_every_forward
        self._segments = segments
        self._momentum_layers = self.following()
        self.path_losses: PathLosses = path_losses  # may be replaced by a compiled version

    def forward(self, images: Tensor) -> Tensor:
        """Run the backbone without auxiliary networks, to logits.

        A pipeline stage maps the input of its first module to the output of its last module, which it also passes
        to the next stage.
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
        """Yield the loss of each module that has one, in order, each with a graph of its own.

        Backpropagate each loss before requesting the next. This frees the module's graph before the next one is
        built, which is where local learning saves memory. Summing the losses first would take more memory than
        backpropagation.

        Args:
            images: normalised images (N, 3, H, W); in a later pipeline stage, the input of its first module.
            targets: class indices, (N,) int64.
        """
        self.backbone.refresh()
        batch_images = images if self.neighbours is None else self.neighbours.images()
        batch = Batch(batch_images, targets, self._mean, self._std, self._classes)
        longest_span = max((p.span for m in self.held for p in m.objective.parts), default=1)
        inputs = {self.held[0].index: images}  # detached inputs of the modules at which later graphs may begin
        for module in self.held:
            yield from self._losses(module, inputs, batch)
            inputs.pop(module.index - longest_span + 1, None)

    def _losses(self, module: LocalModule, inputs: dict[int, Tensor], batch: Batch) -> Iterator[LocalLoss]:
        """Run one module, store its detached output in `inputs`, and yield its loss if it has one."""
        index, parts = module.index, module.objective.parts
        terms: dict[str, Tensor] = {}
        correct = features = None
        for part in parts:
            part.prepare(batch)
            start = index - part.span + 1
            covered = self.local_modules[start : index + 1]
            # Earlier modules, and after the first part this one too, have already run on this batch.
            repeated = covered[:-1] if part is parts[0] else covered
            frozen = [] if self._update_every_forward else [x for m in repeated for x in self.layers_of(m)]
            with frozen_statistics(frozen):
                features, losses, hits = self.path_losses(self._path(covered), part, inputs[start], batch)
            terms |= losses
            correct = correct if hits is None else hits
        if features is None:
            with torch.no_grad():
                features = nn.Sequential(*self.layers_of(module))(inputs[index])
        inputs[index + 1] = dropped(features.detach(), module.objective.dropout, self.training)
        if self.neighbours is not None and module is self.held[-1]:
            self.neighbours.hand_on(inputs[index + 1])
        if parts:
            weights = module.objective.weights
            loss = LocalLoss(index, weighted_sum(terms, weights), terms, weights, correct)
            del features, terms  # release references before the caller's backward pass
            yield loss

    def layers_of(self, module: LocalModule) -> list[nn.Module]:
        """The backbone's layers of a module."""
        return [self.backbone.layers[i] for i in module.layers]

    def _path(self, modules: list[LocalModule]) -> nn.Module:
        layers = [layer for module in modules for layer in self.layers_of(module)]
        return Segmented(layers, self._segments) if self._segments else nn.Sequential(*layers)

    def following(self, modules: Sequence[LocalModule] | None = None) -> list[FollowingLayer]:
        """The momentum layers of `modules`, by default of all held modules."""
        auxiliaries = (self.auxiliary[module.index] for module in modules or self.held)
        return [m for auxiliary in auxiliaries for m in auxiliary.modules() if isinstance(m, FollowingLayer)]

    def update_ema(self, layers: Sequence[FollowingLayer] | None = None) -> None:
        """Move every momentum layer towards the layer that it follows.

        Call it once per step, between the last backward pass and the optimizer's step, so that averages are taken
        of the weights with which the losses were computed.

        Args:
            layers: the layers to move; None for all.
        """
        moved = self._momentum_layers if layers is None else layers
        if moved and self.neighbours is not None:
            self.neighbours.fetch_followed()
        for layer in moved:
            layer.update()

    @property
    def held(self) -> Sequence[LocalModule]:
        """The modules that this process trains: all, or those of one pipeline stage after `restrict`."""
        return self._held

    def restrict(self, modules: range, neighbours: Neighbours) -> None:
        """Keep only a stage of modules; all other weights move to the meta device, where they take no memory.

        Layers of other modules that momentum layers here follow are kept as copies that are not trained.
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
                    empty = torch.empty_like(parameter, device="meta")
                    module._parameters[name] = nn.Parameter(empty, requires_grad=False)
                elif id(parameter) not in trained:
                    parameter.requires_grad_(False)
            for name, buffer in module.named_buffers(recurse=False):
                if id(buffer) not in present and module is not self:
                    module._buffers[name] = torch.empty_like(buffer, device="meta")

    def held_state(self) -> dict[str, Tensor]:
        """The entries of `state_dict()` that training in this process changes."""
        state = self.state_dict()
        return state if self.neighbours is None else {name: state[name] for name in self._held_names}

    @torch.no_grad()
    def load_held(self, state: dict[str, Tensor]) -> None:
        """Load the held entries, and the followed layers, from the `state_dict()` of a complete network."""
        if self.neighbours is None:
            self.load_state_dict(state)
            return
        for name, tensor in self.state_dict().items():
            if not tensor.is_meta:
                tensor.copy_(state[name])

    @property
    def holds_output(self) -> bool:
        """Whether the last module, and with it the classifier, is held."""
        return self.held[-1] is self.local_modules[-1]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._mean.device

    def modules_table(self) -> list[dict[str, Any]]:
        """One row per module: its layers, its auxiliary networks, and the parameters of both.

        Only parameters that require gradients are counted. Those of the classifier belong to the last module.
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
    """Apply dropout in training: to whole channels of images, to single values of all other features."""
    if not probability:
        return features
    drop = F.dropout2d if features.ndim == 4 else F.dropout
    return drop(features, probability, training)


def summary(network: nn.Module) -> str:
    """A short description of an auxiliary network."""
    if isinstance(network, nn.Sequential) and type(network) is nn.Sequential:
        return " ".join(summary(layer) for layer in network)
    describe = getattr(network, "summary", None)
    return f"{type(network).__name__} ({describe()})" if callable(describe) else type(network).__name__


def count_parameters(module: nn.Module) -> int:
    """The number of trainable scalars."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def build(
    plan: Plan, objectives: Callable[[Plan], list[Objective]], seed: int, **settings: Any
) -> LocalNetwork:
    """Build the network of a plan and initialise its auxiliary networks from a seed.

    The auxiliary networks of each module have random numbers of their own. Torch's random state is restored.

    Args:
        plan: the backbone and its cuts.
        objectives: returns one objective per module of the plan.
        seed: of the auxiliary networks' initial weights.
        settings: further arguments of `LocalNetwork`.
    """
    with seeded(seed, "unused"):  # construction draws weights as well, which are redrawn below
        network = LocalNetwork(plan, objectives(plan), **settings)
    for index, auxiliary in enumerate(network.auxiliary):
        with seeded(seed, "auxiliary", index):
            reset(auxiliary)
            plan.architecture.initialize_auxiliary(auxiliary)
        for layer in auxiliary.modules():
            if isinstance(layer, FollowingLayer):
                layer.start()
    return network
