"""An estimate of the cost of runs before they start: floating-point operations and hours."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from localsl.config.building import build_network
from localsl.config.validation import compose
from localsl.data import sources
from localsl.execution import files
from localsl.measure.flops import training_flops
from localsl.runs import identity
from localsl.train import optim
from localsl.train.step import train_step

if TYPE_CHECKING:
    from localsl.config.command import Command
    from localsl.config.schema import Config


# The cache of counted operations, below OUTPUT_DIR and, for the papers' tables, below RESULTS_DIR: counting takes
# half of the time of an estimate.
COUNTED = Path("measured") / "training_flops.json"


def work(configs: Sequence[Command]) -> Iterator[str]:
    """Lines that list runs to train with their number and operations; the last line states the total and the hours.

    Hours are at the rate of a step of backpropagation on this machine, a lower bound: local rules have more and
    smaller operations. Counted operations are cached.
    """
    # A run that one figure needs with its checkpoint and another by its record alone is trained once.
    left = list({identity.run_id(cfg): cfg for cfg in configs}.values())
    if not left:
        yield "nothing left to train"
        return
    by_name: dict[str, list[Command]] = {}
    for cfg in left:
        directory = identity.run_directory(cfg)
        name = f"{directory.parent.parent.name} {directory.parent.name} {identity.cell_id(cfg)}"
        by_name.setdefault(name, []).append(cfg)
    results, kept = (Path(folder) / COUNTED for folder in (left[0].results_dir, left[0].output_dir))
    counted = _counted(results) | _counted(kept)
    known, total, uncounted = len(counted), 0.0, 0
    yield "to run: times, floating-point operations each"
    for name, alike in by_name.items():
        cfg = alike[0]
        if cfg.task.name == "detection":  # the operations of its heads depend on the number of proposals
            uncounted += len(alike)
            yield f"  {len(alike)} x unknown   {name}"
            continue
        each_image = _operations(cfg, counted)
        each = each_image * sources.training_images(cfg.dataset) * cfg.schedule.epochs
        total += each * len(alike)
        yield f"  {len(alike)} x {each:8.1e}  {name}"
    rate = _rate(left[0], counted)
    if len(counted) > known:
        kept.parent.mkdir(parents=True, exist_ok=True)
        files.write(kept, json.dumps(counted, indent=2) + "\n")
    detectors = f", {uncounted} detectors apart" if uncounted else ""
    yield (
        f"{len(left)} runs to do: about {total:.1e} floating-point operations of training, at least "
        f"{_hours(total / rate)} at the {rate / 1e12:.2g} TFLOP/s of backpropagation's step here{detectors}"
    )


def _operations(cfg: Config, counted: dict[str, int]) -> int:
    """Floating-point operations of training on one image, from `counted`, or counted and added to it."""
    size = (cfg.dataset.image_size, cfg.dataset.num_classes)
    decisive = (cfg.method, cfg.aux, cfg.ema, cfg.backbone, cfg.K, cfg.partition, size)
    network = identity.digest({"network": repr(decisive)})
    if network not in counted:
        counted[network] = training_flops(cfg)
    return counted[network]


def _counted(file: Path) -> dict[str, int]:
    """Cached operations by digests of networks; empty if the file is missing or damaged."""
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} hours" if seconds > 3600 else f"{seconds / 60:.1f} minutes"


def _rate(cfg: Config, counted: dict[str, int]) -> float:
    """The measured floating-point operations per second of a step of backpropagation on ResNet-32."""
    typed = ["method=bp", "backbone=resnet32", "dataset=cifar10", f"device={cfg.device}"]
    reference = compose([*typed, f"data_dir={cfg.data_dir}"])
    device = torch.device("cuda" if torch.cuda.is_available() and cfg.device != "cpu" else "cpu")
    network = build_network(reference).to(device)
    optimizer = optim.build(network.parameters(), reference.optimizer)
    size, batch = 32, 128 if device.type == "cuda" else 32
    images = torch.rand(batch, 3, size, size, device=device)
    targets = torch.zeros(batch, dtype=torch.int64, device=device)
    seconds = 0.0
    for _ in range(2):  # the first is the warm-up
        began = time.perf_counter()
        for _ in train_step(network, optimizer, images, targets):
            pass
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return _operations(reference, counted) * batch / seconds
