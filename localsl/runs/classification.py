"""The classification task: a network trained by a rule and tested by its accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from localsl.config.building import build_network, method_of, partition_of
from localsl.core import objectives
from localsl.core.network import LocalNetwork, count_parameters
from localsl.data import feed
from localsl.data.loading import Data
from localsl.execution.processes import Part, Team
from localsl.runs import display
from localsl.train.step import Autocast, Evaluation, evaluate
from localsl.train.task import Batches, Task

if TYPE_CHECKING:
    from localsl.config.schema import Config


@dataclass(frozen=True)
class Counts:
    """The number of images of each split of a data set."""

    train: int
    test: int
    validation: int | None = None

    @classmethod
    def of(cls, images: Data | Counts) -> Counts:
        """Count the images of a data set; counts are returned as they are."""
        if isinstance(images, Counts):
            return images
        return cls(**{part: len(split) for part, split in vars(images).items() if split is not None})


class Classification(Task):
    """Assigns a class to every image."""

    def __init__(self, cfg: Config, images: Data | Counts):
        """`images` are counts in a process that receives its batches from another process."""
        self._cfg, self._data = cfg, images
        self.network = self._network = build_network(cfg)
        self.images = {part: count for part, count in asdict(Counts.of(images)).items() if count is not None}
        self.classes = cfg.dataset.num_classes
        parameters = count_parameters(self._network.backbone), count_parameters(self._network)
        self.record = {"parameters": dict(zip(("backbone", "with_auxiliary"), parameters, strict=True))}

    def describe(self) -> str:
        """The table of modules, and notes on the rule."""
        return describe(self._cfg, self._network)

    def batches(self, device: torch.device, layout: torch.memory_format, part: Part) -> Batches:
        """Batches of images in memory, or of image files on disk."""
        data, cfg = self._data, self._cfg
        assert isinstance(data, Data)
        train = feed.train_batches(data.train, cfg, device, layout, part)
        tests = [
            None if split is None else feed.test_batches(split, cfg, device, layout, part)
            for split in (data.test, data.validation)
        ]
        assert tests[0] is not None
        return Batches(train, tests[0], tests[1])

    def evaluate(self, batches: Iterable[tuple[Any, Any]], forward: Autocast, team: Team) -> Evaluation:
        """Evaluate the loss and accuracy of the backbone, without auxiliary networks."""
        # With five classes or fewer every answer is among the top five.
        top5 = self._cfg.dataset.top5 and self.classes > 5
        return evaluate(self._network, batches, forward, top5, team)


def describe(cfg: Config, network: LocalNetwork) -> str:
    """The table of modules, with warnings and notes on the rule."""
    rows = network.modules_table()
    backbone = sum(row["parameters"] for row in rows)
    auxiliary = sum(row["aux_parameters"] for row in rows)
    size = cfg.dataset.image_size
    lines = [
        f"{cfg.method.name} on {cfg.backbone.name}, {cfg.dataset.name} {size}x{size}, "
        f"{len(rows)} module{'s' if len(rows) > 1 else ''}",
        display.table(rows),
        f"parameters: {backbone:,} in the backbone, {auxiliary:,} in auxiliary networks",
    ]
    weightless = objectives.weightless([module.objective for module in network.local_modules])
    if weightless:
        lines.append(f"warning: all loss weights are 0 in module {', '.join(map(str, weightless))}")
    if cfg.processes and cfg.processes > 1:
        share = cfg.batch_size // cfg.replicas
        work = (
            f"each with {share} images of each batch" if cfg.replicas > 1 else "each with some of the modules"
        )
        lines.append(f"{cfg.processes} processes, {work}")
    if cfg.method.single_module:
        lines.append(f"{cfg.method.name} trains the network as one module, whatever the value of K")
    lines += method_of(cfg).notes(partition_of(cfg))
    return "\n".join(lines)
