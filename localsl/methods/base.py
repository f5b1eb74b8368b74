"""What every learning rule has in common: where it cuts, and one objective per module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from localsl import partition
from localsl.schema import Problem

if TYPE_CHECKING:
    from localsl.config import Config
    from localsl.network import Objective, Site


@dataclass
class Method:
    """Settings of a rule (`cfg.method`). A subclass named `Settings` in its own file says what differs."""

    name: str

    single_module: ClassVar[bool] = False
    """True for a rule that trains the whole network as one module: K then says nothing."""

    def problems(self, cfg: Config) -> Iterator[Problem]:
        """What in the configuration this rule cannot work with."""
        yield from ()

    def groups(self, cfg: Config) -> list[range]:
        """The local layers of each module."""
        return partition.cut(cfg)

    def objective(self, cfg: Config, site: Site) -> Objective:
        """What trains the module that ends at `site`; never asked for the last one."""
        raise NotImplementedError(f"{type(self).__name__} trains no module but the last")
