"""Training consecutive local modules in separate processes at the same time (docs/pipeline.md).

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
from localsl.execution.processes import Team, connection_errors

Batches = Iterator[tuple[Tensor, Tensor]]


class Followed:
    """Sends the weights that momentum layers of other processes follow, and receives those followed here.

    They are sent after each update.
    """

    def __init__(self, network: LocalNetwork, stages: Sequence[range], rank: int, group: Any):
        """`network` must still have all modules."""
        owner: dict[nn.Parameter, int] = {}
        for index, stage in enumerate(stages):
            for module in network.local_modules[stage.start : stage.stop]:
                owner |= dict.fromkeys((p for x in network.layers_of(module) for p in x.parameters()), index)
        # By sending and receiving process, the parameters in an order that both agree on.
        routes: dict[tuple[int, int], dict[nn.Parameter, None]] = {}
        for index, stage in enumerate(stages):
            layers = network.following(network.local_modules[stage.start : stage.stop])
            for layer in (layer for layer in layers if layer.follows):
                for parameter in layer.live.parameters():
                    if owner[parameter] != index:
                        routes.setdefault((owner[parameter], index), {})[parameter] = None
        self._outgoing = [
            (Sender(to, group), list(parameters)) for (own, to), parameters in routes.items() if own == rank
        ]
        self._incoming = [(own, list(parameters)) for (own, to), parameters in routes.items() if to == rank]
        self._buffers = [
            torch.cat([p.detach().flatten() for p in parameters]) for _, parameters in self._incoming
        ]
        # Receives under way; there are none before the first update, when all copies are exact.
        self._works: list[Any] = []
        self._group = group

    def updated(self) -> None:
        """After an update, send the weights that others follow, and start to receive those followed here."""
        for sender, parameters in self._outgoing:
            sender.send([torch.cat([p.detach().flatten() for p in parameters])])
        self.fetch()
        with connection_errors():
            self._works = [
                dist.irecv(buffer, source, group=self._group)
                for (source, _), buffer in zip(self._incoming, self._buffers, strict=True)
            ]

    @torch.no_grad()
    def fetch(self) -> None:
        """Wait for the weights that are being received, and copy them into the layers."""
        with connection_errors():
            for work in self._works:
                work.wait()
        if self._works:
            for (_, parameters), buffer in zip(self._incoming, self._buffers, strict=True):
                values = buffer.split([p.numel() for p in parameters])
                for parameter, value in zip(parameters, values, strict=True):
                    parameter.copy_(value.view_as(parameter))
        self._works = []

    def finish(self) -> None:
        """Wait for all messages under way."""
        for sender, _ in self._outgoing:
            sender.finish()
        self.fetch()


class Stage:
    """The modules of one process: it receives their inputs, trains them, and sends their outputs on.

    Attributes:
        modules: the modules that the process trains.
        draws: whether layers inside them draw random numbers, which no other process can reproduce.
    """

    def __init__(
        self, network: LocalNetwork, stages: Sequence[range], team: Team, boundaries: Sequence[Boundary]
    ):
        """Remove the modules of other processes from the network.

        Args:
            network: the complete network on its device, with its initial weights.
            stages: the modules of each process.
            team: the processes of the run.
            boundaries: the layouts of the images and of the output of each module.
        """
        self._network, self._device = network, network.device
        self._image, *self._ends = boundaries
        self.modules = stages[team.rank]
        self._order = trained(network)
        self._drops = [module.objective.dropout for module in network.local_modules]
        self.draws = any(module in self.modules for module in random_modules(network))
        # Each direction has a process group of its own, so that neither waits for the other.
        onward, back = dist.new_group(), dist.new_group()
        rank, last = team.rank, len(stages) - 1
        decode = [any(_reads_images(network.local_modules[i]) for i in stage) for stage in stages]
        self._images_arrive, self._images_leave = any(decode[rank:]), any(decode[rank + 1 :])
        self._source = Receiver(rank - 1, onward, self._empty_message) if rank else None
        self._sink = Sender(rank + 1, onward) if rank < last else None
        # The images of the current batch, or its features where no losses from here on need images, and its targets.
        self._current: tuple[Tensor, Tensor] | None = None
        self._followed = Followed(network, stages, rank, back)
        network.restrict(self.modules, self)

    def received(self, sizes: Sequence[int]) -> Batches:
        """Batches of the given sizes from the previous process: inputs of the first module, and targets."""
        assert self._source is not None
        for features, targets, *images in self._source.messages(sizes):
            self._current = images[0] if images else features, targets
            yield features, targets

    def passed(self, batches: Batches) -> Batches:
        """The batches of the first process; each is kept while later processes may need its images and targets."""
        for images, targets in batches:
            self._current = images, targets
            yield images, targets

    def step(self, step: Callable[[Tensor, Tensor], None]) -> Callable[[Tensor, Tensor], None]:
        """A training step of this process's modules, as part of the step of all processes."""

        def step_together(features: Tensor, targets: Tensor) -> None:
            self._draw(range(self.modules.start), len(targets))
            step(features, targets)
            self._draw(range(self.modules.stop, len(self._drops)), len(targets))
            self._followed.updated()

        return step_together

    def images(self) -> Tensor:
        """The images of the current batch."""
        assert self._current is not None
        return self._current[0]

    def hand_on(self, features: Tensor) -> None:
        """Start to send the last module's output with the targets and, if later losses need them, the images."""
        if self._sink is None:
            return
        assert self._current is not None
        images, targets = self._current
        others = [targets, self._image.fitted(images)] if self._images_leave else [targets]
        if self._source is not None:
            # The receiver may reuse its buffers before they have been sent on.
            others = [tensor.clone() for tensor in others]
        self._sink.send([self._ends[self.modules.stop - 1].fitted(features), *others])

    def fetch_followed(self) -> None:
        """Wait for the latest weights of layers that momentum layers follow and other processes train."""
        self._followed.fetch()

    def positions(self) -> list[int]:
        """The positions of this process's trained parameters among those of the complete network."""
        own = set(trained(self._network))
        return [index for index, name in enumerate(self._order) if name in own]

    def finish(self) -> None:
        """Wait for all messages under way."""
        if self._sink is not None:
            self._sink.finish()
        self._followed.finish()

    def _empty_message(self, images: int) -> list[Tensor]:
        """Buffers for a message about `images` images."""
        features = self._ends[self.modules.start - 1].empty(images, self._device)
        targets = torch.empty(images, dtype=torch.int64, device=self._device)
        return [features, targets, *([self._image.empty(images, self._device)] if self._images_arrive else [])]

    def _draw(self, modules: range, images: int) -> None:
        """Draw the random numbers of dropout between other processes' modules, as a single process would."""
        for module in modules:
            if self._drops[module]:
                end = self._ends[module]
                # Dropout is by channel for images, and by value otherwise.
                shape = (end.shape[0], 1, 1) if len(end.shape) == 3 else end.shape
                ones = torch.ones(images, *shape, dtype=end.dtype, device=self._device)
                dropped(ones, self._drops[module], training=True)


def trained(network: LocalNetwork) -> list[str]:
    """The names of the parameters that an optimizer updates, in the optimizer's order."""
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def _reads_images(module: LocalModule) -> bool:
    return any(isinstance(term, Reconstruction) for part in module.objective.parts for term in part.terms)


def random_modules(network: LocalNetwork) -> list[int]:
    """The modules with layers that draw random numbers in training; dropout between modules does not count."""
    found = []
    for module in network.local_modules:
        parts = [*network.layers_of(module), network.auxiliary[module.index]]
        if module is network.local_modules[-1]:
            parts.append(network.backbone.classifier)
        if any(_draws(layer) for part in parts for layer in part.modules()):
            found.append(module.index)
    return found


def _draws(layer: nn.Module) -> bool:
    """Whether a layer is active dropout, stochastic depth or similar, by the names in torch, torchvision and timm."""
    kind = type(layer).__name__.lower()
    if not any(name in kind for name in ("drop", "stochastic", "rrelu")):
        return False
    rates = [getattr(layer, name) for name in ("p", "drop_prob", "prob") if hasattr(layer, name)]
    return any(rates) or not rates


def inexact(network: LocalNetwork, stages: Sequence[range]) -> str:
    """Why several processes would not draw the random numbers of a single process; empty if they would.

    Every process draws the random numbers of dropout between modules. How many numbers a layer inside a module draws
    is known to its own process only, so no other process may draw any.
    """
    inside = random_modules(network)
    between = [module.index for module in network.local_modules if module.objective.dropout]
    drawing = [stage for stage in stages if any(module in stage for module in (*inside, *between))]
    if not inside or len(drawing) == 1:
        return ""
    modules = ", ".join(map(str, inside))
    return f"modules {modules} draw random numbers inside, and other processes do not know how many"
