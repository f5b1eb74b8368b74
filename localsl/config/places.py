"""The folders of a configuration."""

from __future__ import annotations

import dataclasses
import os

from localsl.config.command import Command
from localsl.core.settings import Problem


def at_home(config: Command) -> tuple[Command, list[Problem]]:
    """The configuration with the home folder for `~`, which shells leave alone behind an equals sign."""
    problems = []

    def whole(key: str, path: str | None) -> str | None:
        if path is None or not (path == "~" or path.startswith("~/")):
            return path
        found = os.path.expanduser(path)
        if found == path:
            problems.append(Problem(key, path, "no home folder is known here", "type the whole path"))
        return found

    places = {key: whole(key, getattr(config, key)) for key in ("data_dir", "output_dir", "results_dir")}
    dataset = dataclasses.replace(config.dataset, root=whole("dataset.root", config.dataset.root))
    analysis = dataclasses.replace(config.analysis, output=whole("analysis.output", config.analysis.output))
    runs = [str(whole("runs", run)) for run in config.runs]
    return dataclasses.replace(config, dataset=dataset, analysis=analysis, runs=runs, **places), problems
