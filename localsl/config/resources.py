"""The location of conf/ and sweeps/: beside the package in a clone, inside it when installed."""

from __future__ import annotations

from pathlib import Path

from localsl.core.settings import LocalslError

PACKAGE = Path(__file__).resolve().parent.parent


def folder(name: str) -> Path:
    """The folder of this name, whether or not it exists."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def check() -> None:
    """Check that the configuration files exist.

    Raises:
        LocalslError: if they do not, because the package was copied without them.
    """
    if not folder("conf").is_dir():
        what = f"localsl in {PACKAGE} has no configuration files (conf/)"
        raise LocalslError(f"{what}: install it with `pip install .` from a clone, or run it in the clone")
