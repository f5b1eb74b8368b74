"""The folders of a configuration."""

from __future__ import annotations

import dataclasses
import os

from localsl.config.command import Command
from localsl.core.settings import Problem


def at_home(config: Command) -> tuple[Command, list[Problem]]:
    """Replace `~` in the folders of a configuration, which shells leave alone after an equals sign."""
    problems = []

    def expanded(key: str, path: str | None) -> str | None:
        if path is None or not (path == "~" or path.startswith("~/")):
            return path
        found = os.path.expanduser(path)
        if found == path:
            problems.append(Problem(key, path, "the home folder is unknown", "type an absolute path"))
        return found

    places = {key: expanded(key, getattr(config, key)) for key in ("data_dir", "output_dir", "results_dir")}
    dataset = dataclasses.replace(config.dataset, root=expanded("dataset.root", config.dataset.root))
    analysis = dataclasses.replace(config.analysis, output=expanded("analysis.output", config.analysis.output))
    runs = [str(expanded("runs", run)) for run in config.runs]
    return dataclasses.replace(config, dataset=dataset, analysis=analysis, runs=runs, **places), problems
