"""What a sweep would run and what is done: before it starts, and for `make status`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from localsl import optim, tracking
from localsl.config import compose
from localsl.data import sources
from localsl.engine import train_step
from localsl.measure.flops import training_flops
from localsl.network import build_network
from localsl.tables import records
from localsl.tables.sweeps import Job, Request

if TYPE_CHECKING:
    from localsl.settings import Config


def status(request: Request, jobs: Sequence[Job], configs: Sequence[Config]) -> str:
    """A line a table: how many of its cells and runs there are, and how many of them are done."""
    states = {job: records.state(cfg) for job, cfg in zip(jobs, configs, strict=True)}
    lines = []
    for table in request.tables:
        count = Counter(states[job] for job in jobs if table.name in job.tables)
        lines.append(
            {
                "table": table.name,
                "cells": len(table.cells),
                "not built": sum(cell.unbuilt is not None for cell in table.cells),
                "runs": sum(count.values()),
                **{name: count.pop(name, 0) for name in ("done", "running", "missing")},
                "failed": sum(count.values()),
            }
        )
    total = Counter(states.values())
    told = ", ".join(f"{count} {name}" for name, count in total.most_common())
    shared = f"{len(jobs)} runs, those that tables share counted once" + (f": {told}" if told else "")
    unbuilt = {(table.name, cell.unbuilt) for table in request.tables for cell in table.cells if cell.unbuilt}
    not_built = [f"  {name} not built: {reason}" for name, reason in sorted(unbuilt)]
    return "\n".join([tracking.table(lines), *not_built, shared])


def work(configs: Sequence[Config]) -> str:
    """Floating-point operations and hours of the runs that are not done, as an estimate.

    Hours at the rate of a step of backpropagation on this machine, in the first run's image size: local rules
    have more and smaller operations, and take longer.
    """
    left = [c for c in configs if c.measure is None and records.state(c) != "done"]
    if not left:
        return "nothing left to train"
    counted: dict[str, float] = {}
    total = 0.0
    for cfg in left:
        network = repr(
            (cfg.method, cfg.aux, cfg.ema, cfg.backbone, cfg.K, cfg.partition, cfg.dataset.image_size)
        )
        if network not in counted:
            counted[network] = _flops_per_image(cfg)
        total += counted[network] * sources.training_images(cfg.dataset) * cfg.schedule.epochs
    rate = _rate(left[0])
    return (
        f"{len(left)} runs to do: about {total:.1e} floating-point operations of training, or "
        f"{total / rate / 3600:,.1f} hours at the {rate / 1e12:.2g} TFLOP/s of backpropagation's step here"
    )


def _flops_per_image(cfg: Config) -> float:
    """Counted at 32x32 and scaled by the area where images are larger."""
    scale = max(1.0, cfg.dataset.image_size / 32)
    small = replace(cfg.dataset, image_size=round(cfg.dataset.image_size / scale))
    return scale**2 * training_flops(replace(cfg, dataset=small))


def _rate(cfg: Config) -> float:
    typed = [f"dataset={cfg.dataset.name}", f"dataset.root={cfg.dataset.root}"]
    reference = compose(["method=bp", "backbone=resnet32", *(typed if cfg.dataset.root else typed[:1])])
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
