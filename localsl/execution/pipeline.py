"""Consecutive local modules in processes of their own, which train them side by side (docs/pipeline.md).

Within a step a module does not depend on later modules, except through momentum layers. Each process therefore
receives detached features from the process before it, trains its modules on them, sends its last module's features
on, and may run steps ahead of the processes after it. A momentum layer moves towards the weights that the step's
losses were computed with: if another process trains that layer, it sends the weights back after each of its updates,
and the next step's average waits for them. Every tensor of every step equals that of a single process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from localsl.core.network import LocalModule, LocalNetwork, dropped
from localsl.core.objectives import Reconstruction
from localsl.execution.handover import Boundary, Receiver, Sender
from localsl.execution.processes import Team, lost

Batches = Iterator[tuple[Tensor, Tensor]]


class Followed:
    """Weights of layers that one process trains and momentum layers of another follow, sent after each update."""

    def __init__(self, network: LocalNetwork, stages: Sequence[range], rank: int, group: Any):
        """Of a network that still has all modules."""
        owner: dict[nn.Parameter, int] = {}
        for index, stage in enumerate(stages):
            for module in network.local_modules[stage.start : stage.stop]:
                owner |= dict.fromkeys((p for x in network.layers_of(module) for p in x.parameters()), index)
        routes: dict[tuple[int, int], dict[nn.Parameter, None]] = {}  # from one process to another, in order
        for index, stage in enumerate(stages):
            for layer in network.following(network.local_modules[stage.start : stage.stop]):
                for parameter in layer.live.parameters():
                    if owner[parameter] != index:
                        routes.setdefault((owner[parameter], index), {})[parameter] = None
        self._outgoing = [
            (Sender(to, group), list(parameters)) for (own, to), parameters in routes.items() if own == rank
        ]
        self._incoming = [(own, list(parameters)) for (own, to), parameters in routes.items() if to == rank]
        self._rooms = [
            torch.cat([p.detach().flatten() for p in parameters]) for _, parameters in self._incoming
        ]
        # None before this process's first update: the weights at hand are the right ones.
        self._works: list[Any] = []
        self._group = group

    def updated(self) -> None:
        """Send what other processes follow, and expect what this one follows, each after another update."""
        for sender, parameters in self._outgoing:
            sender.send([torch.cat([p.detach().flatten() for p in parameters])])
        self.fetch()
        with lost():
            self._works = [
                dist.irecv(room, own, group=self._group)
                for (own, _), room in zip(self._incoming, self._rooms, strict=True)
            ]

    @torch.no_grad()
    def fetch(self) -> None:
        """Wait for what is expected, and take it."""
        with lost():
            for work in self._works:
                work.wait()
        if self._works:
            for (_, parameters), room in zip(self._incoming, self._rooms, strict=True):
                values = room.split([p.numel() for p in parameters])
                for parameter, value in zip(parameters, values, strict=True):
                    parameter.copy_(value.view_as(parameter))
        self._works = []

    def finish(self) -> None:
        """Wait for all that is under way."""
        for sender, _ in self._outgoing:
            sender.finish()
        self.fetch()


class Stage:
    """One process's modules among those of all: what it receives, trains and hands on.

    Attributes:
        modules: that it trains.
        draws: whether layers inside them draw random numbers, which no other process knows.
    """

    def __init__(
        self, network: LocalNetwork, stages: Sequence[range], team: Team, boundaries: Sequence[Boundary]
    ):
        """Leaves in the network this process's modules only.

        Args:
            network: whole, on its device, with the initial weights.
            stages: the modules of each process.
            boundaries: the images, and what each module hands on.
        """
        self._network, self._device = network, network.device
        self._image, *self._ends = boundaries
        self.modules = stages[team.rank]
        self._order = trained(network)
        self._drops = [module.objective.dropout for module in network.local_modules]
        self.draws = any(module in self.modules for module in random_modules(network))
        # A connection of their own for each direction, so that neither waits for the other.
        onward, back = dist.new_group(), dist.new_group()
        rank, last = team.rank, len(stages) - 1
        decode = [any(_reads_images(network.local_modules[i]) for i in stage) for stage in stages]
        self._images_arrive, self._images_leave = any(decode[rank:]), any(decode[rank + 1 :])
        self._source = Receiver(rank - 1, onward, self._room) if rank else None
        self._sink = Sender(rank + 1, onward) if rank < last else None
        # A batch's images, where losses need them, and targets.
        self._current: tuple[Tensor, Tensor] | None = None
        self._followed = Followed(network, stages, rank, back)
        network.restrict(self.modules, self)

    def received(self, sizes: Sequence[int]) -> Batches:
        """What the first module takes, and targets, in batches of these sizes, from the process before."""
        assert self._source is not None
        for features, targets, *images in self._source.messages(sizes):
            self._current = images[0] if images else features, targets
            yield features, targets

    def passed(self, batches: Batches) -> Batches:
        """Batches of the first process, whose images and targets may have to travel with the features."""
        for images, targets in batches:
            self._current = images, targets
            yield images, targets

    def step(self, step: Callable[[Tensor, Tensor], None]) -> Callable[[Tensor, Tensor], None]:
        """A training step of this process's modules, made part of all processes' step."""

        def together(features: Tensor, targets: Tensor) -> None:
            self._draw(range(self.modules.start), len(targets))
            step(features, targets)
            self._draw(range(self.modules.stop, len(self._drops)), len(targets))
            self._followed.updated()

        return together

    def images(self) -> Tensor:
        """The batch's images."""
        assert self._current is not None
        return self._current[0]

    def hand_on(self, features: Tensor) -> None:
        """Start to send the last module's output, with the targets and, where losses need them, the images."""
        if self._sink is None:
            return
        assert self._current is not None
        images, targets = self._current
        beside = [targets, images] if self._images_leave else [targets]
        if (
            self._source is not None
        ):  # its buffers are received into again, perhaps before they have been sent on
            beside = [tensor.clone() for tensor in beside]
        self._sink.send([self._ends[self.modules.stop - 1].fitted(features), *beside])

    def fetch_followed(self) -> None:
        """Wait for the weights of followed layers that other processes have updated since."""
        self._followed.fetch()

    def positions(self) -> list[int]:
        """Of this process's trained parameters among those of all."""
        own = set(trained(self._network))
        return [index for index, name in enumerate(self._order) if name in own]

    def finish(self) -> None:
        """Wait for what is under way."""
        if self._sink is not None:
            self._sink.finish()
        self._followed.finish()

    def _room(self, images: int) -> list[Tensor]:
        """For a message about so many images."""
        features = self._ends[self.modules.start - 1].empty(images, self._device)
        targets = torch.empty(images, dtype=torch.int64, device=self._device)
        return [features, targets, *([self._image.empty(images, self._device)] if self._images_arrive else [])]

    def _draw(self, modules: range, images: int) -> None:
        """Draw the random numbers of other processes' dropout: its own are then those of one process."""
        for module in modules:
            if self._drops[module]:
                end = self._ends[module]
                shape = (end.shape[0], 1, 1) if len(end.shape) == 3 else end.shape  # whole channels, or values
                ones = torch.ones(images, *shape, dtype=end.dtype, device=self._device)
                dropped(ones, self._drops[module], training=True)


def trained(network: LocalNetwork) -> list[str]:
    """The names of the parameters that an optimizer updates, in its order."""
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def _reads_images(module: LocalModule) -> bool:
    return any(isinstance(term, Reconstruction) for part in module.objective.parts for term in part.terms)


def random_modules(network: LocalNetwork) -> list[int]:
    """Modules with layers that draw random numbers in training, beside the dropout between modules."""
    found = []
    for module in network.local_modules:
        held = [*network.layers_of(module), network.auxiliary[module.index]]
        if module is network.local_modules[-1]:
            held.append(network.backbone.classifier)
        if any(_draws(layer) for part in held for layer in part.modules()):
            found.append(module.index)
    return found


def _draws(layer: nn.Module) -> bool:
    """Whether it is dropout, stochastic depth or similar, recognised by the names of torch, torchvision and timm."""
    names = ("p", "drop_prob")
    return "drop" in type(layer).__name__.lower() and any(getattr(layer, name, 0) for name in names)


def inexact(network: LocalNetwork, stages: Sequence[range]) -> str:
    """Why processes would not draw the random numbers that one process draws; empty if they do.

    Every process draws the dropout between modules. How many numbers a layer inside a module draws is known to its
    own process only, so no other process may draw any.
    """
    inside = random_modules(network)
    dropping = [module.index for module in network.local_modules if module.objective.dropout]
    drawing = [stage for stage in stages if any(module in stage for module in (*inside, *dropping))]
    if not inside or len(drawing) == 1:
        return ""
    return (
        f"modules {', '.join(map(str, inside))} draw random numbers inside, whose number no other process knows"
    )
