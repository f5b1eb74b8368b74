"""Finding the runs of an analysis by folder, id or pattern, labelling them, and checking that they are comparable."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf

from localsl.config.building import build_network
from localsl.config.validation import validate
from localsl.core.settings import ConfigError, Problem
from localsl.data import loading
from localsl.data.sources import ON_DISK
from localsl.data.splits import SUBSET_SEED
from localsl.execution import devices
from localsl.runs import identity, stored
from localsl.runs.checkpoint import Checkpoints
from localsl.runs.stored import Run

if TYPE_CHECKING:
    from localsl.config.command import Command
    from localsl.core.network import LocalNetwork
    from localsl.data.settings import DatasetSettings

# Fields that labels mention first to distinguish runs of one rule.
FIRST = ("aux.depth", "aux.head", "K")

# Fields that an analysis takes from its own command instead of from the run: folders, and how steps are executed.
FROM_COMMAND = ("data_dir", "output_dir", "results_dir", "device", "threads", "memory", "compile", "cuda_graph")


def refused(what: str, instead: str) -> ConfigError:
    """An error about the runs of an analysis."""
    return ConfigError([Problem("runs", "", what, instead)])


@dataclass(frozen=True)
class Trained(Run):
    """A finished run that is analysed, for most analyses with checkpoints.

    Attributes:
        cfg: its configuration, with FROM_COMMAND and a given `dataset.root` from the command at hand.
        label: its label in figures. Runs with equal labels are averaged, as those of several seeds.
    """

    cfg: Command = field(repr=False)
    label: str

    @classmethod
    def of(cls, folder: Path, cfg: Command, label: str) -> Trained:
        """The finished run in a folder."""
        record = stored.read(folder / "record.json")
        assert record is not None
        return cls(folder, record, cfg, label)

    def network(self, device: torch.device) -> LocalNetwork:
        """The network of the newest checkpoint, in evaluation mode.

        Raises:
            ConfigError: if there is no readable checkpoint.
        """
        state = Checkpoints(self.cfg, self.folder).newest()
        if state is None:
            what = f"{self.folder} has no checkpoint that can be read"
            again = "train it again: its command, with checkpoint.required=true checkpoint.every=1"
            raise refused(what, again)
        network = build_network(self.cfg)
        network.load_state_dict(state["network"])
        return network.to(device=device, memory_format=devices.layout(self.cfg)).eval()  # pyright: ignore[reportCallIssue]

    def columns(self) -> dict[str, Any]:
        """The columns that describe the run in a CSV, with its test accuracy at the last epoch in per cent."""
        record, last = self.record, self.record["last"]
        return {
            "dataset": record["dataset"],
            "backbone": record["backbone"],
            "label": self.label,
            "method": record["method"],
            "K": "" if self.cfg.method.single_module else record["K"],
            "seed": record["seed"],
            "run": record["id"],
            "epochs": last["epoch"],
            "train_images": record["images"]["train"],
            "test_accuracy": f"{last['test_accuracy']:.2f}",
        }


def found(texts: Sequence[str], command: Command) -> list[Trained]:
    """The runs that `runs=` names, each once and in that order.

    Args:
        texts: folders of runs, ids as `show=runs` lists them, or patterns of folders.
        command: the configuration of the command at hand.

    Raises:
        ConfigError: naming each text that matches no run, and each run that is not finished.
    """
    if not texts:
        raise refused("an analysis needs runs", "type runs=[ID,ID,...]; python run.py show=runs lists them")
    folders: dict[Path, None] = {}
    problems = []
    for text in texts:
        records = {path: stored.read(path / "record.json") for path in _folders(text, command)}
        matching = {path: record for path, record in records.items() if record is not None}
        folders |= dict.fromkeys(matching)
        if not matching:
            problems.append(Problem("runs", text, *_no_run(text)))
        for path, record in matching.items():
            if record["status"] != "done":
                what = f"{path} is not finished: {record['status']}"
                problems.append(Problem("runs", text, what, "repeat the command that started it"))
            elif record.get("task") == "detection":
                what = f"{path} is a run of a detector, and analyses are of classification"
                problems.append(Problem("runs", text, what, f"type runs=[{record['backbone_run']}]"))
    if problems:
        raise ConfigError(problems)
    configs = [_config(folder, command) for folder in folders]
    return [Trained.of(f, c, label) for f, c, label in zip(folders, configs, labels(configs), strict=True)]


def _folders(text: str, command: Command) -> list[Path]:
    if Path(text).exists():
        return [Path(text)]
    if glob.has_magic(text):
        return [Path(path) for path in sorted(glob.glob(text, recursive=True))]
    if not re.fullmatch(r"[0-9a-f]{8}", text):
        return []
    recorded = Path(command.results_dir) / "runs" / text
    return sorted(Path(command.output_dir).rglob(f"seed=*-{text}")) or [recorded]


def _no_run(text: str) -> tuple[str, str]:
    if Path(text).exists():
        return "is not the folder of a run, which has a record.json", f"type '{text}/**/seed=*' for those in it"
    if glob.has_magic(text):
        return "matches no run's folder", "python run.py show=runs lists them"
    return (
        "is not a run",
        "type a folder, or an id that python run.py show=runs lists (output_dir= if elsewhere)",
    )


def _config(folder: Path, command: Command) -> Command:
    """The configuration in a run's folder, with fields of the command at hand.

    Raises:
        ConfigError: if it is missing, or invalid in this version of the code.
    """
    try:
        values = OmegaConf.load(folder / "config.yaml")
    except OSError:
        what = f"{folder} has no config.yaml"
        raise refused(what, "give the folder that the run itself wrote") from None
    replaced: dict[str, Any] = {key: getattr(command, key) for key in FROM_COMMAND}
    replaced |= {"sweep": None, "show": None, "measure": None, "held": "wait", "runs": []}
    replaced |= {"analysis": {"kind": "none"}, "logger": {"name": "csv"}}
    stored: Any = OmegaConf.to_container(values)
    # What the run found in its files is put back after validation, which rejects these fields.
    contents = {name: stored.get("dataset", {}).get(name) for name in ("classes", "files", "digest")}
    values = OmegaConf.merge(values, {"dataset": dict.fromkeys(contents)})
    for key, value in replaced.items():
        OmegaConf.update(values, key, value, merge=False)
    try:
        cfg = validate(values, to_run=False)  # pyright: ignore[reportArgumentType]
    except ConfigError as error:
        problems = "; ".join(map(str, error.problems))
        raise refused(
            f"the configuration of {folder} cannot be read: {problems}", "leave that run out"
        ) from None
    root = command.dataset.root if cfg.dataset.name in ON_DISK and command.dataset.root else cfg.dataset.root
    return replace(cfg, dataset=replace(cfg.dataset, root=root, **contents))


def labels(configs: Sequence[Command]) -> list[str]:
    """A label for each run: its rule, and the settings, except the seed, in which runs of the rule differ."""
    words_of = [[cfg.method.name] for cfg in configs]
    values = [dict(identity.leaves(asdict(cfg))) for cfg in configs]
    keys = {key for cfg in configs for key in identity.without(identity.identity(asdict(cfg)), "seed")}
    for key in sorted(keys, key=lambda k: (k not in FIRST, k)):
        alike: dict[tuple[str, ...], list[int]] = {}
        for index, words in enumerate(words_of):
            alike.setdefault(tuple(words), []).append(index)
        for group in alike.values():
            if len({str(values[index].get(key)) for index in group}) > 1:
                for index in group:
                    words_of[index].append(f"{key}={values[index].get(key)}")
    return [" ".join(words) for words in words_of]


def check_comparable(runs: Sequence[Trained]) -> None:
    """Check that all runs have the same layers and the same test images.

    Raises:
        ConfigError: naming two runs that differ.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.cfg.backbone != first.cfg.backbone:
            theirs = f"{run.cfg.backbone.name} in {run.folder}, {first.cfg.backbone.name} in {first.folder}"
            raise refused(f"their backbones differ: {theirs}", "give the runs of one backbone at a time")
        if _tested_on(run.cfg.dataset) != _tested_on(first.cfg.dataset):
            theirs = f"{run.cfg.dataset.name} in {run.folder}, {first.cfg.dataset.name} in {first.folder}"
            raise refused(f"their test images differ: {theirs}", "give the runs of one data set at a time")


def _tested_on(dataset: DatasetSettings) -> tuple:
    pixels = dataset.image_size, dataset.crop
    pictures = dataset.digest or dataset.root  # the same digest may lie in different folders
    return dataset.name, pixels, dataset.num_classes, dataset.test_subset, pictures


def mixed(split: loading.AnySplit, count: int | None) -> loading.AnySplit:
    """At most `count` images with balanced classes, in a fixed random order.

    Raises:
        ConfigError: if a class has too few images.
    """
    if count is not None and count < len(split):
        try:
            split = split[loading.balanced(split.targets, count)]
        except ValueError as error:
            what = f"the {len(split)} test images have no balanced subset of this size: {error}"
            raise ConfigError([Problem("analysis.images", count, what, "type a smaller number")]) from None
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(SUBSET_SEED))
    return split[order]
