"""The partition of local layers into K contiguous groups: published cuts where they exist, else an even split.

At the layer-wise K, which is the number L of local layers (16 for ResNet-32, 55 for ResNet-110), every layer is a
module. `partition.stem=merged` then joins the stem to the first block, as the released MAN and MLAAN do, whose code
calls this K = L - 1. At every smaller K the stem belongs to the first module. VGG has no stem: all its layers are
convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from localsl.core.architecture import Architecture, LocalLayer
from localsl.core.settings import Problem, one_of, ruled
from localsl.published import constants


@dataclass(kw_only=True)
class PartitionSettings:
    """How local layers are grouped into K modules.

    Attributes:
        stem: at the layer-wise K, whether the stem is a module of its `own` or `merged` into the first block's.
        balance: modules of equal `depth`, or InfoPro's published cuts into modules of equal `memory`.
        join_last: for rules with a depth d, whether the last d layers form one module; None follows AugLocal's
            code, which does so for small images with one module per layer.
    """

    stem: str = ruled(one_of("own", "merged"), default="own", always=True)
    balance: str = ruled(one_of("depth", "memory"), default="depth", always=True)
    join_last: bool | None = None


@dataclass(frozen=True)
class Partition:
    """An architecture and its division into K modules.

    Attributes:
        dataset: the data set, for which InfoPro's memory-balanced cuts and loss weights are looked up.
        ends: index of each module's last layer; replaces the cuts that K would give.
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
        """The number of stems, 0 or 1."""
        return int(self.layers[0].is_stem)

    def problems(self, *, single_module: bool = False) -> Iterator[Problem]:
        """Problems with K: too few or too many modules, or no published memory-balanced cuts."""
        count, name = len(self.layers), self.architecture.name
        if self.K < 1 or (count < self.K and not single_module):
            what = f"{name} has {count} local layers, so K must be 1 to {count}"
            yield Problem("K", self.K, what, f"type K={count} for one module per layer")
        if self.settings.balance == "memory" and not self._published:
            what = f"memory-balanced cuts are published only for {'; '.join(constants.balanced_cuts())}"
            yield Problem("partition.balance", "memory", what, "type partition.balance=depth")

    def groups(self) -> list[range]:
        """The local layers of each module, as consecutive ranges of indices."""
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
        """Whether every layer is a module, not counting a stem that is merged into the first block."""
        count = len(self.layers)
        return self.K in (count, count - self.stem * (self.settings.stem == "merged"))

    @property
    def _published(self) -> list[str] | None:
        return constants.cuts(self.architecture.name, self.dataset, self.settings.balance, self.K)


def joined(groups: list[range], count: int) -> list[range]:
    """The groups, with the last `count` of them joined into one."""
    kept = groups[: max(0, len(groups) - count)]
    start = kept[-1].stop if kept else 0
    return [*kept, range(start, groups[-1].stop)]


def even(layers: int, K: int, stem: int = 1) -> list[range]:
    """K groups whose numbers of blocks differ by at most one, smaller first; the stem joins the first group."""
    sizes = [(layers - stem + i) // K for i in range(K)]
    return _ranges([stem + sum(sizes[: i + 1]) for i in range(K)])


def _ranges(stops: Sequence[int]) -> list[range]:
    return [range(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
