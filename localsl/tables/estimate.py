"""About how much work the runs of a sweep are, before they start."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from localsl.config.building import build_network
from localsl.config.validation import compose
from localsl.data import sources
from localsl.measure.flops import training_flops
from localsl.measure.speed import backpropagation
from localsl.runs import identity
from localsl.tables import records
from localsl.train import optim
from localsl.train.step import train_step

if TYPE_CHECKING:
    from localsl.config.schema import Config


def work(configs: Sequence[Config]) -> str:
    """Floating-point operations and hours of the runs that are not done, as an estimate.

    Hours at the rate of a step of backpropagation on this machine, in the first run's image size: local rules
    have more and smaller operations, and take longer.
    """
    to_do = (cfg for cfg in configs if cfg.measure is None and records.state(cfg) != "done")
    # One that a figure asks for with its checkpoint, and another by its record alone, is trained once.
    left = list({identity.run_id(cfg): cfg for cfg in to_do}.values())
    if not left:
        return "nothing left to train"
    counted: dict[str, int] = {}
    work: dict[str, list[float]] = {}
    for cfg in left:
        # Counted at 32x32 and scaled by the area where images are larger: most of it is convolutions.
        scale = max(1.0, cfg.dataset.image_size / 32)
        small = replace(cfg.dataset, image_size=round(cfg.dataset.image_size / scale))
        size = (small.image_size, small.num_classes)
        network = repr((cfg.method, cfg.aux, cfg.ema, cfg.backbone, cfg.K, cfg.partition, size))
        if network not in counted:
            counted[network] = training_flops(replace(cfg, dataset=small))
        images = sources.training_images(cfg.dataset) * cfg.schedule.epochs
        directory = identity.run_directory(cfg)
        name = f"{directory.parent.parent.name} {directory.parent.name} {identity.cell_id(cfg)}"
        work.setdefault(name, []).append(scale**2 * counted[network] * images)
    rate = _rate(left[0])
    lines = [
        f"  {len(each)} x {sum(each) / len(each):8.1e}  {_hours(sum(each) / rate):>12}  {name}"
        for name, each in work.items()
    ]
    total = sum(map(sum, work.values()))
    return "\n".join(
        [
            "to run: times, floating-point operations each, time of all",
            *lines,
            f"{len(left)} runs to do: about {total:.1e} floating-point operations of training, at least "
            f"{_hours(total / rate)} at the {rate / 1e12:.2g} TFLOP/s of backpropagation's step here",
        ]
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} hours" if seconds > 3600 else f"{seconds / 60:.1f} minutes"


def _rate(cfg: Config) -> float:
    reference = replace(backpropagation(cfg), backbone=compose(["backbone=resnet32"]).backbone)
    device = torch.device("cuda" if torch.cuda.is_available() and cfg.device != "cpu" else "cpu")
    network = build_network(reference).to(device)
    optimizer = optim.build(network.parameters(), reference.optimizer)
    size, batch = cfg.dataset.image_size, 128
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
    return training_flops(reference) * batch / seconds
