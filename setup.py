"""Puts conf/ and sweeps/, which lie beside the package in a clone, inside it in a wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithResources(build_py):
    """Copies the folders that `localsl.config.resources` looks for."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for name in ("conf", "sweeps"):
                shutil.copytree(name, Path(self.build_lib, "localsl", name), dirs_exist_ok=True)


setup(cmdclass={"build_py": WithResources})
