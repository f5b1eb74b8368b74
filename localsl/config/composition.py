"""How Hydra makes configurations from overrides, and which choices and keys it has."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from localsl.config import resources
from localsl.config.fields import leaves
from localsl.data.sources import Known

CONF = resources.folder("conf")

# The groups whose values live under another name.
PACKAGES = {"aux_net": "aux"}

# What Hydra and OmegaConf raise on input that they cannot take.
REFUSED = (HydraException, OmegaConfBaseException, ValueError, TypeError)


def key_of(override: str) -> str:
    """The field, or the group of conf/, that an override names."""
    return override.split("=")[0].lstrip("+~")


def field_of(override: str) -> str:
    """The field or group of fields that it sets, by its dotted name: aux for aux_net=dgl."""
    return PACKAGES.get(key_of(override), key_of(override))


@contextlib.contextmanager
def _initialized() -> Iterator[None]:
    """Hydra over conf/; one that is running, of a job that composes another configuration, waits meanwhile."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = running


def by_hydra(overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes.

    Raises:
        REFUSED: if it cannot.
    """
    with _initialized():
        return hydra.compose("config", list(overrides))


def searched(overrides: Sequence[str], config_dir: str | None = None) -> list[str]:
    """The folders beside conf/ in which Hydra is asked to look for choices.

    Args:
        overrides: of which `hydra.searchpath=[...]` may be one.
        config_dir: what was typed as `--config-dir`, which comes first.
    """
    folders = [f"file://{Path(config_dir).resolve()}"] if config_dir is not None else []
    for override in overrides:
        if key_of(override) == "hydra.searchpath":
            with contextlib.suppress(HydraException):  # told with the other overrides
                value = OverridesParser.create().parse_override(override).value()
                folders += [str(place) for place in value] if isinstance(value, list) else []
    return folders


class Composition:
    """Configurations as `by_hydra` makes them; those of the same choices share the reading of their files.

    Hydra's first step takes 0.2 s: it expands the defaults by the choices of groups and merges their files. The
    cells of a table share it; the second step, to set single values, is each one's own.

    Attributes:
        known: what the folders of pictures that they name hold, which they share too.
        search: the override that makes Hydra look into other folders too; empty without any.
    """

    def __init__(self, folders: Sequence[str] = ()):
        """`folders` as `searched` gives them."""
        self.known: Known = {}
        self.search = ["hydra.searchpath=[{}]".format(",".join(f"'{f}'" for f in folders))] if folders else []
        places = [CONF, *(Path(folder.removeprefix("file://")) for folder in folders)]
        self.groups = {
            str(path.relative_to(place)) for place in places for path in place.rglob("*") if path.is_dir()
        }
        self._chosen: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """What Hydra composes.

        Raises:
            REFUSED: if it cannot.
        """
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        choices = tuple(text for text, o in zip(overrides, parsed, strict=True) if not self._is_value(o))
        if choices not in self._chosen:
            self._chosen[choices] = by_hydra([*self.search, *choices])
        made = copy.deepcopy(self._chosen[choices])
        ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if self._is_value(o)], made)
        return made

    def _is_value(self, override: Override) -> bool:
        """Whether it sets a value and nothing more; Hydra's own values, and what it refuses, stay with it."""
        plain = override.package is None and not override.is_sweep_override()
        return plain and not override.is_hydra_override() and override.key_or_group not in self.groups


def options(group: str, search: Sequence[str] = ()) -> list[str]:
    """The choices of a group, Hydra's own such as hydra/launcher included; none if there is no such group."""
    with _initialized():
        loader = GlobalHydra.instance().config_loader()
        return loader.get_group_options(group, config_name="config", overrides=list(search))


def hydras_own(overrides: Sequence[str]) -> DictConfig:
    """The configuration of Hydra itself: launcher, sweeper, and which were chosen.

    Raises:
        REFUSED: if it does not compose.
    """
    with _initialized():
        return hydra.compose("config", list(overrides), return_hydra_config=True).hydra


def hydras_keys(overrides: Sequence[str]) -> list[str]:
    """The groups and values of Hydra itself, by the names under which they are typed."""
    with _initialized():
        groups = GlobalHydra.instance().config_loader().list_groups("hydra")
    values = leaves({"hydra": OmegaConf.to_container(hydras_own(overrides))})
    return [*(f"hydra/{group}" for group in groups), *(path for path, _ in values)]
