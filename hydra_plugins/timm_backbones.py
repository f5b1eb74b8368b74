"""`backbone=timm/NAME` for every network of timm, without a file for each: Hydra asks here for what conf lacks.

Whether timm has a network of that name is checked with the rest of the configuration, so that nothing here
imports timm.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

GROUP, PREFIX = "backbone", "backbone/timm/"


class TimmBackbones(ConfigSource):
    """What would be conf/backbone/timm/NAME.yaml."""

    @staticmethod
    def scheme() -> str:
        """Under which it stands in Hydra's search path."""
        return "timm"

    def load_config(self, config_path: str) -> ConfigResult:
        """The values of one."""
        model = config_path.removeprefix(PREFIX)
        values = {"name": f"timm_{model}", "family": "timm", "scale": "imagenet", "model": model}
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(values), {"package": None})

    def available(self) -> bool:
        """Always."""
        return True

    def is_group(self, config_path: str) -> bool:
        """It adds to the backbones."""
        return config_path.rstrip("/") == GROUP

    def is_config(self, config_path: str) -> bool:
        """Any name that could be timm's."""
        return config_path.startswith(PREFIX) and "/" not in config_path.removeprefix(PREFIX)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """What `--help` and the message on an unknown backbone tell of it."""
        told = config_path.rstrip("/") == GROUP and results_filter != ObjectType.GROUP
        return ["timm/<name>"] if told else []


class TimmSearchPath(SearchPathPlugin):
    """Puts it into Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """After conf, so that a file there would win."""
        search_path.append("timm", f"{TimmBackbones.scheme()}://")
