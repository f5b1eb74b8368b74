"""Configurations: the schema, how one is composed from a command line, and its validation."""

from localsl.config.schema import Config
from localsl.config.validation import compose, validate
from localsl.core.settings import ConfigError

__all__ = ["Config", "ConfigError", "compose", "validate"]
