"""Hydra choices without a file in conf/: `backbone=timm/NAME` for networks of timm, `method=NAME` for other rules.

`method=NAME` chooses `aux_net=NAME` and `ema=NAME` too, which have the defaults of the rule's class.

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
OF_RULES = ("method/", "aux_net/", "ema/")
PACKAGES = {"backbone": None, "method": "_global_", "aux_net": "aux", "ema": None}


class FurtherChoices(ConfigSource):
    """A source of backbone/timm/NAME, and of method, aux_net and ema/NAME for rules of other packages."""

    @staticmethod
    def scheme() -> str:
        """The scheme of this source in Hydra's search path."""
        return "localsl"

    def load_config(self, config_path: str) -> ConfigResult:
        """The configuration of a choice."""
        group, _, name = config_path.partition("/")
        values = _network(name.removeprefix("timm/")) if config_path.startswith(TIMM) else _of_rule(group, name)
        header: dict[str, str | None] = {"package": PACKAGES[group]}
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(values), header)

    def available(self) -> bool:
        """The source is always available."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Whether the path is a group with choices of this source."""
        return f"{config_path.rstrip('/')}/" in ("backbone/", *OF_RULES)

    def is_config(self, config_path: str) -> bool:
        """Whether the path is a choice: a possible name in timm, or the name of a registered rule."""
        if config_path.startswith(OF_RULES):
            return config_path.partition("/")[2].removesuffix(".yaml") in methods.registered()
        return config_path.startswith(TIMM) and "/" not in config_path.removeprefix(TIMM)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The choices listed by `--help` and by the message about an unknown choice."""
        if results_filter == ObjectType.GROUP:
            return []
        choices = {"backbone": ["timm/<name>"], "method": sorted(methods.registered())}
        return choices.get(config_path.rstrip("/"), [])


def _network(model: str) -> dict[str, Any]:
    """The configuration of a network of timm."""
    return {"name": f"timm_{model}", "family": "timm", "scale": "imagenet", "model": model}


def _of_rule(group: str, name: str) -> dict[str, Any]:
    """What a group's choice for a registered rule sets: the defaults of the rule's class."""
    rule = methods.find(name)
    own = {field.name: _default(field) for field in rule.own_fields()}
    _, aux, ema = rule(**{field: None for field, value in own.items() if value == "???"}).settings()
    if group == "method":
        chosen = {"aux_net": aux, "ema": ema}
        choices = [{f"override /{one}": "none" if x is None else name} for one, x in chosen.items()]
        return {"defaults": [*choices, "_self_"], "method": {"name": name, "rule": name, **own}}
    settings = aux if group == "aux_net" else ema
    assert settings is not None  # otherwise the method chooses none
    return dataclasses.asdict(settings)


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "???" if field.default is dataclasses.MISSING else field.default


class FurtherSearchPath(SearchPathPlugin):
    """Adds the source to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the source, so that files in conf/ take precedence."""
        search_path.append(WITHOUT_FILES, f"{FurtherChoices.scheme()}://")
