"""The problems that a wrong configuration is refused with."""

import pytest

from localsl.config import ConfigError, compose


def problems(*overrides):
    """The problems of a configuration, which must be refused."""
    with pytest.raises(ConfigError) as error:
        compose(overrides)
    return error.value.problems
