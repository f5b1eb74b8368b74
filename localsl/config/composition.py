"""How Hydra makes configurations from overrides, and which choices and keys it has."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.default_element import GroupDefault, InputDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from localsl.config import resources
from localsl.config.fields import leaves
from localsl.data.sources import Known

CONF = resources.folder("conf")
PRIMARY = "config"

# The name of the source of choices without a file: timm's networks and registered rules.
WITHOUT_FILES = "localsl"

# The groups whose values live under another name.
PACKAGES = {"aux_net": "aux"}

# What Hydra and OmegaConf raise on input that they cannot take.
REFUSED = (HydraException, OmegaConfBaseException, ValueError, TypeError, OverflowError)


def key_of(override: str) -> str:
    """The field, or the group of conf/, that an override names."""
    return override.split("=")[0].lstrip("+~")


def field_of(override: str) -> str:
    """The field or group of fields that it sets, by its dotted name: aux for aux_net=dgl."""
    return PACKAGES.get(key_of(override), key_of(override))


@contextlib.contextmanager
def _initialized() -> Iterator[None]:
    """Hydra initialised with conf/. If Hydra is already running a job, its state is restored afterwards."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = running


def by_hydra(overrides: Sequence[str]) -> DictConfig:
    """The configuration that Hydra composes from overrides.

    Raises:
        REFUSED: if it cannot.
    """
    with _initialized():
        return hydra.compose(PRIMARY, list(overrides))


def searched(overrides: Sequence[str], config_dir: str | None = None) -> list[str]:
    """The folders beside conf/ in which Hydra is asked to look for choices.

    Args:
        overrides: of which `hydra.searchpath=[...]` may be one.
        config_dir: what was typed as `--config-dir`, which comes first.
    """
    folders = [f"file://{Path(config_dir).resolve()}"] if config_dir is not None else []
    for override in overrides:
        if key_of(override) == "hydra.searchpath":
            with contextlib.suppress(HydraException):  # reported together with other wrong overrides
                value = OverridesParser.create().parse_override(override).value()
                folders += [str(place) for place in value] if isinstance(value, list) else []
    return folders


class _Files(CachingConfigRepository):
    """The files of conf/ and of further folders, read once, without what they set of Hydra itself."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        """A copy of a file's contents, since Hydra makes the nodes of a file part of what it composes."""
        found = copy.deepcopy(super().load_config(config_path))
        if found is None or found.provider == WITHOUT_FILES:  # rules may be registered at any time
            del self.cache[f"config_path={config_path}"]
        elif config_path == PRIMARY and isinstance(found.config, DictConfig):
            found.config.pop("hydra")
            found.defaults_list = [e for e in found.defaults_list or [] if not _concerns_hydra(e)]
        return found


def _concerns_hydra(entry: InputDefault) -> bool:
    return isinstance(entry, GroupDefault) and str(entry.group).startswith("hydra/")


@cache
def _files(search: tuple[str, ...]) -> tuple[ConfigLoaderImpl, _Files]:
    with _initialized():
        loader: Any = GlobalHydra.instance().config_loader()
        _, repository = loader._parse_overrides_and_create_caching_repo(PRIMARY, list(search))
        return loader, _Files(repository.delegate)


class Composition:
    """Configurations as Hydra composes them; those with the same choices share the first of two steps.

    The first step expands the defaults by the choices of groups and merges their files; the second sets single
    values. Hydra's own configuration is left out unless an override concerns it: it would take most of the time.

    Attributes:
        known: the contents of the image folders that the configurations name, which they share too.
        search: the override that makes Hydra look into other folders too; empty without any.
    """

    def __init__(self, folders: Sequence[str] = ()):
        """`folders` as `searched` returns them."""
        self.known: Known = {}
        self.search = ["hydra.searchpath=[{}]".format(",".join(f"'{f}'" for f in folders))] if folders else []
        self.groups = groups([CONF, *(Path(folder.removeprefix("file://")) for folder in folders)])
        self._chosen: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration that Hydra composes.

        Raises:
            REFUSED: if it cannot be composed.
        """
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        choices = [o for o in parsed if not _is_plain(o) or o.key_or_group in self.groups]
        values = [o for o in parsed if _is_plain(o) and o.key_or_group not in self.groups]
        texts = tuple(str(o.input_line) for o in choices)
        if texts not in self._chosen:
            own = all(_is_plain(o) for o in choices)
            self._chosen[texts] = self._composed(choices) if own else by_hydra([*self.search, *texts])
        made = copy.deepcopy(self._chosen[texts])
        ConfigLoaderImpl._apply_overrides_to_config(values, made)
        return made

    def _composed(self, choices: list[Override]) -> DictConfig:
        """The configuration with these choices, as `by_hydra` composes it, from files that are read once."""
        loader, files = _files(tuple(self.search))
        defaults = create_defaults_list(files, PRIMARY, choices, prepend_hydra=False, skip_missing=False)
        made = loader._compose_config_from_defaults_list(defaults.defaults, files)
        OmegaConf.set_struct(made, True)
        ConfigLoaderImpl._apply_overrides_to_config(defaults.config_overrides, made)  # optimizer={lr:0.1}
        return made


def _is_plain(override: Override) -> bool:
    """Whether an override sets one value or choice, and does not concern Hydra itself."""
    return override.package is None and not override.is_sweep_override() and not override.is_hydra_override()


def options(group: str, search: Sequence[str] = ()) -> list[str]:
    """The choices of a group, Hydra's own such as hydra/launcher included; none if there is no such group."""
    with _initialized():
        loader = GlobalHydra.instance().config_loader()
        return loader.get_group_options(group, config_name=PRIMARY, overrides=list(search))


def groups(places: Sequence[Path] = (CONF,)) -> list[str]:
    """The groups in conf/ and in further folders, by the names under which they are typed."""
    return sorted(
        {str(path.relative_to(place)) for place in places for path in place.rglob("*") if path.is_dir()}
    )


def hydras_own(overrides: Sequence[str]) -> DictConfig:
    """The configuration of Hydra itself: launcher, sweeper, and which were chosen.

    Raises:
        REFUSED: if it does not compose.
    """
    with _initialized():
        return hydra.compose(PRIMARY, list(overrides), return_hydra_config=True).hydra


def hydras_keys(overrides: Sequence[str]) -> list[str]:
    """The groups and values of Hydra itself, by the names under which they are typed."""
    with _initialized():
        groups = GlobalHydra.instance().config_loader().list_groups("hydra")
    values = leaves({"hydra": OmegaConf.to_container(hydras_own(overrides))})
    return [*(f"hydra/{group}" for group in groups), *(path for path, _ in values)]
