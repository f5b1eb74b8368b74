"""Configurations that are wrong."""

import pytest

from localsl.config import ConfigError, compose


def problems(*overrides):
    """What is wrong with a configuration."""
    with pytest.raises(ConfigError) as error:
        compose(overrides)
    return error.value.problems
