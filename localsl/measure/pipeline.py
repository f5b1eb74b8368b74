"""`measure=pipeline`: modelled step times of a rule and of backpropagation on several devices."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from localsl.config.building import build_network
from localsl.core.network import LocalNetwork, count_parameters
from localsl.core.objectives import open_cuts
from localsl.data import sources
from localsl.execution import balance, devices
from localsl.execution.balance import balanced
from localsl.measure import scaling
from localsl.measure.scaling import Module
from localsl.measure.speed import backpropagation
from localsl.runs import display
from localsl.runs.staging import example
from localsl.train.step import Autocast, training_forward

if TYPE_CHECKING:
    from localsl.config.schema import Config

SCOPE = "a model fed with this device's times of every module; seconds a step, filling of each epoch included"

DEVICES = (1, 2, 4, 8, 16, 55)
MICROBATCHES = 8


def modelled(cfg: Config) -> tuple[dict[str, Any], list[str], torch.device]:
    """The figures by name, lines to print, and the device whose times they are based on."""
    device = devices.chosen(cfg.device)
    devices.prepare(device, cfg.deterministic, cfg.tf32)
    network, reference = (build_network(c) for c in (cfg, backpropagation(cfg)))
    for each in (network, reference):
        devices.place(each, cfg, device)
    images, targets = example(cfg, device, cfg.batch_size)
    forward = training_forward(cfg, device)
    (bp,) = balance.measured(reference, images, targets, forward)
    modules = _modules(network, images, targets, forward)
    cuts = open_cuts([module.objective for module in network.local_modules])
    steps = max(1, sources.training_images(cfg.dataset) // cfg.batch_size)
    bandwidth = cfg.parallel.bandwidth * 1e9
    gradient_bytes = [4 * count_parameters(n) for n in (network, reference)]
    alone = [module.alone * bp.total / sum(m.alone for m in modules) for module in modules]
    outputs = [module.output for module in modules]
    local = sum(module.turn.total for module in modules)
    rows = []
    max_devices = len(cuts) + 1
    for count in [*(count for count in DEVICES if count < max_devices), max_devices]:
        seconds = {
            "modules": scaling.pipelined(modules, count, cuts, bandwidth, steps),
            "data": scaling.data_parallel(local, gradient_bytes[0], count, bandwidth),
            "bp_data": scaling.data_parallel(bp.total, gradient_bytes[1], count, bandwidth),
            "bp_pipeline": scaling.pipelined_backpropagation(alone, outputs, count, MICROBATCHES, bandwidth),
        }
        limit = balanced([m.turn.total for m in modules], count, cuts).limit
        rows.append({"devices": count, **seconds, "limit": limit})
    shown = [
        {
            "devices": row["devices"],
            **{name: f"{bp.total / row[name]:.2f}" for name in ("modules", "data", "bp_data", "bp_pipeline")},
            "speed-up": f"{rows[0]['modules'] / row['modules']:.2f}",
            "limit": f"{row['limit']:.2f}",
        }
        for row in rows
    ]
    figures: dict[str, Any] = {"bp_seconds": bp.total, "local_seconds": local, "rows": rows}
    figures |= {"bandwidth": bandwidth, "microbatches": MICROBATCHES, "steps_per_epoch": steps}
    figures |= {"module_seconds": [m.turn.total for m in modules], "layers_seconds": alone}
    lines = ["images per second relative to backpropagation on one device, by how devices divide the work:"]
    lines += [display.table(shown)]
    lines.append("modules: local modules in parallel; data, bp_data: data parallelism; bp_pipeline: GPipe with")
    lines.append(f"{MICROBATCHES} microbatches; connections of {cfg.parallel.bandwidth:g} GB/s")
    return figures, lines, device


def _modules(network: LocalNetwork, images: Tensor, targets: Tensor, forward: Autocast) -> list[Module]:
    """The cost of each module, timed on the network's device."""
    turns = balance.measured(network, images, targets, forward)
    modules, features, device = [], images, images.device
    trained_by = {
        p: m.index for m in network.local_modules for x in network.layers_of(m) for p in x.parameters()
    }
    for module, turn in zip(network.local_modules, turns, strict=True):
        layers = torch.nn.Sequential(*network.layers_of(module))
        seconds, output = [], features
        for _ in range(balance.TIMED):
            began = balance.synchronised_time(device)
            with forward():
                output = layers(features)
            output.sum().backward()
            seconds.append(balance.synchronised_time(device) - began)
            network.zero_grad()
        live = {p for x in network.following([module]) if x.follows for p in x.live.parameters()}
        followed: Counter[int] = Counter()
        for parameter in live:
            followed[trained_by[parameter]] += parameter.nbytes
        modules.append(Module(turn, median(seconds), output.nbytes, dict(followed)))
        features = output.detach()
    return modules
