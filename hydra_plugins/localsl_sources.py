"""Hydra choices without a file in conf/: `backbone=timm/NAME` for networks of timm, `method=NAME` for other rules.

Whether timm has a network of that name is checked together with the rest of the configuration, so that this file need
not import timm.
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
from localsl.config.composition import WITHOUT_FILES

TIMM = "backbone/timm/"
METHOD = "method/"


class FurtherChoices(ConfigSource):
    """A source of the choices backbone/timm/NAME, and method/NAME for rules registered by other packages."""

    @staticmethod
    def scheme() -> str:
        """The scheme of this source in Hydra's search path."""
        return "localsl"

    def load_config(self, config_path: str) -> ConfigResult:
        """The configuration of a choice."""
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
        """The source is always available."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Whether the path is a group with choices of this source: backbone or method."""
        return f"{config_path.rstrip('/')}/" in ("backbone/", METHOD)

    def is_config(self, config_path: str) -> bool:
        """Whether the path is a choice: a possible name in timm, or the name of a registered rule."""
        if config_path.startswith(METHOD):
            return config_path.removeprefix(METHOD).removesuffix(".yaml") in methods.registered()
        return config_path.startswith(TIMM) and "/" not in config_path.removeprefix(TIMM)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The choices listed by `--help` and by the message about an unknown choice."""
        if results_filter == ObjectType.GROUP:
            return []
        choices = {"backbone": ["timm/<name>"], "method": sorted(methods.registered())}
        return choices.get(config_path.rstrip("/"), [])


def _method(name: str) -> dict[str, Any]:
    """The configuration of a rule with the defaults of its fields."""
    rule = methods.find(name)
    own = {field.name: _default(field) for field in rule.own_fields()}
    groups = [{"override /aux_net": rule.aux_net}, {"override /ema": rule.ema}]
    return {"defaults": [*groups, "_self_"], "method": {"name": name, "rule": name, **own}}


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "???" if field.default is dataclasses.MISSING else field.default


class FurtherSearchPath(SearchPathPlugin):
    """Adds the source to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the source, so that files in conf/ take precedence."""
        search_path.append(WITHOUT_FILES, f"{FurtherChoices.scheme()}://")
