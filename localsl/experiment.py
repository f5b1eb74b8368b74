"""One run from a validated configuration to its record: data, network, epochs, figures."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch

from localsl import data, identity, tracking
from localsl.data.batches import Batches
from localsl.engine import ModuleMeans, autocast, evaluate, train_epoch
from localsl.measure.memory import PeakMemory
from localsl.network import LocalNetwork, build_network, count_parameters
from localsl.optim import build_optimizer, learning_rate
from localsl.schema import LocalslError

if TYPE_CHECKING:
    from localsl.config import Config


class Diverged(LocalslError):
    """A loss is no longer a finite number. Exit code 3."""

    exit_code = 3


def run(cfg: Config) -> dict[str, Any] | None:
    """Train and record the run of a configuration; a finished one is only told again.

    Returns:
        its record, or None if only the table of modules was asked for.

    Raises:
        ConfigError: if the data set is not to be had.
        Diverged: if a module's loss stops being finite.
    """
    if cfg.show == "modules":
        print(describe(cfg, build_network(cfg)))
        return None
    record = tracking.read_record(cfg)
    if record is not None and record["status"] == "done":
        print(f"This run is done: {identity.run_directory(cfg)} (delete the folder to run it again)")
        print(closing(record))
        return record
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    return _train(cfg)


def describe(cfg: Config, network: LocalNetwork) -> str:
    """The table of modules, and what is worth knowing before a run starts."""
    rows = network.modules_table()
    backbone = sum(row["parameters"] for row in rows)
    auxiliary = sum(row["aux_parameters"] for row in rows)
    size = cfg.dataset.image_size
    lines = [
        f"{cfg.method.name} on {cfg.backbone.name}, {cfg.dataset.name} {size}x{size}, "
        f"{len(rows)} module{'s' if len(rows) > 1 else ''}",
        tracking.table(rows),
        f"parameters: {backbone:,} in the backbone, {auxiliary:,} in auxiliary networks",
    ]
    if cfg.method.single_module:
        lines.append(f"{cfg.method.name} trains one module whatever K says")
    if cfg.schedule.warmup_epochs >= cfg.schedule.epochs:
        warmup = f"schedule.warmup_epochs={cfg.schedule.warmup_epochs}"
        lines.append(f"note: {warmup} covers all {cfg.schedule.epochs} epochs")
    return "\n".join(lines)


def closing(record: dict[str, Any]) -> str:
    """A finished run in a few lines."""
    last, best = record["last"], record["best"]
    return (
        f"test accuracy {last['test_accuracy']:.2f} % at the last epoch, "
        f"{best['test_accuracy']:.2f} % at the best ({best['epoch']})\n"
        f"peak memory {tracking.mebibytes(record['peak_memory_bytes'])} ({record['peak_memory_scope']}), "
        f"{record['seconds']:.1f} s"
    )


def _train(cfg: Config) -> dict[str, Any]:
    device = _device(cfg.device)
    images = data.load(cfg)
    network = build_network(cfg)
    print(describe(cfg, network), flush=True)
    network.to(device)
    optimizer = build_optimizer(network.parameters(), cfg.optimizer)
    train = Batches(images.train, cfg.dataset, cfg.batch_size, device)
    test = Batches(images.test, cfg.dataset, cfg.batch_size, device)
    forward = autocast(cfg.precision, device)
    memory = PeakMemory(network, optimizer, cfg.schedule.epochs * len(train))
    progress = tracking.Progress(cfg.schedule.epochs, len(train))

    record: dict[str, Any] = {
        "status": "running",
        "id": identity.run_id(cfg),
        "method": cfg.method.name,
        "dataset": cfg.dataset.name,
        "backbone": cfg.backbone.name,
        "K": cfg.K,
        "modules": len(network.local_modules),
        "seed": cfg.seed,
        "precision": cfg.precision,
        "schedule": cfg.schedule.name,
        "epochs": cfg.schedule.epochs,
        "images": {"train": len(images.train), "test": len(images.test)},
        "parameters": {
            "backbone": count_parameters(network.backbone),
            "with_auxiliary": count_parameters(network),
        },
        "last": None,
        "best": None,
        **tracking.environment(device),
    }
    tracker = tracking.Tracker(cfg)
    start = time.perf_counter()
    try:
        for epoch in range(1, cfg.schedule.epochs + 1):
            lr = learning_rate(epoch, cfg.optimizer.lr, cfg.schedule)
            for group in optimizer.param_groups:
                group["lr"] = lr
            began = time.perf_counter()
            batches = progress.steps(train.train(cfg.seed, epoch))
            means = train_epoch(network, optimizer, batches, forward, memory.step)
            images_per_s = len(images.train) / (time.perf_counter() - began)
            _check_finite(means, epoch, lr)
            loss, accuracy = evaluate(network, test.test(), forward)
            row = _row(epoch, lr, means, loss, accuracy, images_per_s)
            tracker.row(row)
            record["last"] = {"epoch": epoch, "test_accuracy": accuracy, "test_loss": loss}
            if record["best"] is None or accuracy > record["best"]["test_accuracy"]:
                record["best"] = record["last"]
            progress.epoch(row, record["best"]["test_accuracy"])
        record["status"] = "done"
    except Diverged:
        record["status"] = "diverged"
        raise
    except (KeyboardInterrupt, SystemExit):
        record["status"] = "interrupted"
        raise
    except BaseException as error:
        record["status"] = "failed"
        record["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        progress.close()
        record["seconds"] = time.perf_counter() - start
        record["peak_memory_bytes"] = memory.bytes
        record["peak_memory_scope"] = memory.scope
        tracker.close(record)
    print(closing(record))
    print(f"written to {tracker.path}")
    return record


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _check_finite(means: list[ModuleMeans], epoch: int, lr: float) -> None:
    for index, mean in enumerate(means):
        if not math.isfinite(mean.loss):
            what = f"the loss of module {index} is {mean.loss} in epoch {epoch} at learning rate {lr:g}"
            raise Diverged(f"diverged: {what}; try a smaller optimizer.lr")


def _row(
    epoch: int,
    lr: float,
    means: list[ModuleMeans],
    test_loss: float,
    test_accuracy: float,
    images_per_s: float,
) -> dict[str, Any]:
    """A line of metrics.csv; training figures without a number are the output module's."""
    row = {
        "epoch": epoch,
        "lr": lr,
        "train_loss": means[-1].loss,
        "train_accuracy": means[-1].accuracy,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "images_per_s": images_per_s,
    }
    for index, mean in enumerate(means):
        row[f"module_{index}_loss"] = mean.loss
        row[f"module_{index}_accuracy"] = mean.accuracy
    return row
