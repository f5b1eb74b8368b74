"""Runs among the results, and the report that is written from them."""

import csv
import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

from omegaconf import OmegaConf

from localsl.config import compose
from localsl.runs import identity
from localsl.tables import records, report, results, sweeps
from localsl.tables.results import Composed

DGL = ("method=dgl", "dataset=cifar10", "backbone=resnet32", "K=16")
EPOCHS = 3

composed = cache(lambda *overrides: compose(list(overrides)))


def finished(overrides, seed, accuracy, modules=16):
    """Write the folder of a finished run among the results; returns the run's id."""
    cfg = replace(composed(*overrides, f"schedule.epochs={EPOCHS}"), seed=seed)
    folder = Path("results/runs") / identity.run_id(cfg)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(asdict(cfg)))
    rows = []
    for epoch in range(1, EPOCHS + 1):
        row = {"epoch": epoch, "lr": 0.1, "train_loss": 2 / epoch, "train_accuracy": 50.0}
        row |= {"test_loss": 2.5 / epoch, "test_accuracy": accuracy - EPOCHS + epoch, "images_per_s": 9.5}
        for i in range(modules):  # module 2 has no classifier
            row |= {f"module_{i}_loss": 1.5, f"module_{i}_accuracy": "" if i == 2 else 30.0 + i}
        rows.append(row)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    last = {key: rows[-1][key] for key in ("epoch", "test_accuracy", "test_loss")}
    record = {"status": "done", "id": folder.name, "method": cfg.method.name, "dataset": cfg.dataset.name}
    record |= {"backbone": cfg.backbone.name, "K": cfg.K, "modules": modules, "seed": cfg.seed}
    record |= {"precision": "fp32", "schedule": "paper", "epochs": EPOCHS, "last": last, "best": last}
    record |= {"images": {"train": 50_000, "test": 20}, "parameters": {"backbone": 10, "with_auxiliary": 20}}
    record |= {"versions": {"torch": "2.15.0"}, "device": "A <fast> & small one", "commit": None}
    record |= {"seconds": 12.3, "peak_memory_bytes": 3 * 2**20, "peak_memory_scope": "live tensors"}
    (folder / "record.json").write_text(json.dumps(record))
    return record["id"]


def gathered(name, epochs=EPOCHS):
    """The tables of a sweep, their rows, and all runs in results/runs: the arguments of `report.write`.

    `epochs` is the length that the cell of DGL asks for; runs with fewer are shortened.
    """
    request = sweeps.requested([f"sweep={name}"])
    runs = records.under(Path("results/runs"))
    configs = Composed(request, {DGL: composed(*DGL, f"schedule.epochs={epochs}")})
    return request.tables, {table.name: results.rows(table, configs, runs) for table in request.tables}, runs


def written(name="all", **settings):
    """Write the report of a sweep's tables; returns its file."""
    return report.write(Path("results"), *gathered(name, **settings))
