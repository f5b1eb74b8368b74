"""Choices of groups without a file in conf: `backbone=timm/NAME` for every network of timm, `method=NAME` for a
registered rule. Hydra asks here for what conf lacks.

Whether timm has a network of that name is checked with the rest of the configuration, so that nothing here
imports timm.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from localsl import methods

TIMM = "backbone/timm/"
METHOD = "method/"


class FurtherChoices(ConfigSource):
    """What would be conf/backbone/timm/NAME.yaml, and conf/method/NAME.yaml of a rule that is not of this package."""

    @staticmethod
    def scheme() -> str:
        """Under which it stands in Hydra's search path."""
        return "localsl"

    def load_config(self, config_path: str) -> ConfigResult:
        """The values of one."""
        if config_path.startswith(TIMM):
            model = config_path.removeprefix(TIMM)
            header: dict[str, str | None] = {"package": None}
            values: dict[str, Any] = {
                "name": f"timm_{model}",
                "family": "timm",
                "scale": "imagenet",
                "model": model,
            }
        else:
            values, header = _method(config_path.removeprefix(METHOD)), {"package": "_global_"}
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(values), header)

    def available(self) -> bool:
        """Always."""
        return True

    def is_group(self, config_path: str) -> bool:
        """It adds to the backbones and the methods."""
        return f"{config_path.rstrip('/')}/" in ("backbone/", METHOD)

    def is_config(self, config_path: str) -> bool:
        """Any name that could be timm's, and the names of registered rules."""
        if config_path.startswith(METHOD):
            return config_path.removeprefix(METHOD).removesuffix(".yaml") in methods.registered()
        return config_path.startswith(TIMM) and "/" not in config_path.removeprefix(TIMM)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """What `--help` and the message on an unknown choice tell of it."""
        if results_filter == ObjectType.GROUP:
            return []
        told = {"backbone": ["timm/<name>"], "method": sorted(methods.registered())}
        return told.get(config_path.rstrip("/"), [])


def _method(name: str) -> dict[str, Any]:
    """A rule with the defaults of its fields."""
    rule = methods.find(name)
    own = {field.name: _default(field) for field in rule.own_fields()}
    groups = [{"override /aux_net": rule.aux_net}, {"override /ema": rule.ema}]
    return {"defaults": [*groups, "_self_"], "method": {"name": name, "rule": name, **own}}


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "???" if field.default is dataclasses.MISSING else field.default


class FurtherSearchPath(SearchPathPlugin):
    """Puts it into Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """After conf, so that a file there would win."""
        search_path.append("localsl", f"{FurtherChoices.scheme()}://")
