"""K to contiguous groups of local layers: the published cuts where there are any, an even split elsewhere.

At the layer-wise K, the number L of local layers (16 for ResNet-32, 55 for ResNet-110), every layer is a
module; `partition.stem=merged` joins the stem to the first block, as the released MAN and MLAAN do, whose
keys are L - 1 for that. At every smaller K the stem belongs to the first module. VGG has no stem: all its
layers are convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from localsl.core.architecture import Architecture, LocalLayer
from localsl.core.settings import Problem, one_of, ruled
from localsl.published import constants


@dataclass(kw_only=True)
class PartitionSettings:
    """How K becomes groups of local layers.

    Attributes:
        stem: at the layer-wise K, whether the stem is a module of its `own` or `merged` into the first block's.
        balance: modules of equal `depth`, or InfoPro's of equal `memory`.
        join_last: with a depth d, whether the last d layers are one module; None as in AugLocal's code, for small
            images with one module a layer.
    """

    stem: str = ruled(one_of("own", "merged"), default="own", always=True)
    balance: str = ruled(one_of("depth", "memory"), default="depth", always=True)
    join_last: bool | None = None


@dataclass(frozen=True)
class Partition:
    """An architecture and how it is cut into K modules.

    Attributes:
        dataset: by which InfoPro's balanced cuts and loss weights are found.
        ends: index of every module's last layer, given instead of K.
    """

    architecture: Architecture
    K: int
    settings: PartitionSettings = field(default_factory=PartitionSettings)
    dataset: str = ""
    ends: tuple[int, ...] | None = None

    @property
    def layers(self) -> list[LocalLayer]:
        """All local layers."""
        return self.architecture.local_layers()

    @property
    def stem(self) -> int:
        """How many stems there are, 0 or 1."""
        return int(self.layers[0].is_stem)

    def problems(self, *, single_module: bool = False) -> Iterator[Problem]:
        """A K that the backbone cannot be cut into, or that has no memory-balanced cuts."""
        count, name = len(self.layers), self.architecture.name
        if self.K < 1 or (count < self.K and not single_module):
            what = f"{name} has {count} local layers, so K must be 1 to {count}"
            yield Problem("K", self.K, what, f"type K={count} for one module per layer")
        if self.settings.balance == "memory" and not self._published:
            what = f"memory-balanced cuts are published for {'; '.join(constants.balanced_cuts())}"
            yield Problem("partition.balance", "memory", what, "type partition.balance=depth")

    def groups(self) -> list[range]:
        """The local layers of each module, as ranges of indices that follow each other."""
        if self.ends is not None:
            return _ranges([end + 1 for end in self.ends])
        names = [layer.name for layer in self.layers]
        if self._published:
            return _ranges([*(names.index(end) + 1 for end in self._published), len(names)])
        if len(names) == self.K and (self.settings.stem == "own" or not self.stem):
            return [range(i, i + 1) for i in range(self.K)]
        return even(len(names), min(self.K, len(names) - self.stem), self.stem)

    @property
    def layer_wise(self) -> bool:
        """Whether every layer is a module, the stem perhaps joined to the first block."""
        count = len(self.layers)
        return self.K in (count, count - self.stem * (self.settings.stem == "merged"))

    @property
    def _published(self) -> list[str] | None:
        return constants.cuts(self.architecture.name, self.dataset, self.settings.balance, self.K)


def joined(groups: list[range], count: int) -> list[range]:
    """The same cuts without the last `count - 1`: the last `count` groups are one."""
    kept = groups[: max(0, len(groups) - count)]
    start = kept[-1].stop if kept else 0
    return [*kept, range(start, groups[-1].stop)]


def even(layers: int, K: int, stem: int = 1) -> list[range]:
    """K groups of blocks that differ by at most one, smaller ones first; a stem on top of the first."""
    sizes = [(layers - stem + i) // K for i in range(K)]
    return _ranges([stem + sum(sizes[: i + 1]) for i in range(K)])


def _ranges(stops: Sequence[int]) -> list[range]:
    return [range(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
