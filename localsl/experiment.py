"""One run from a validated configuration to its record: data, network, epochs, figures."""

from __future__ import annotations

import math
import time
import traceback
from typing import TYPE_CHECKING, Any

import torch

from localsl import data, devices, identity, objectives, optim, tracking
from localsl.data.batches import TestBatches, TrainBatches
from localsl.engine import ModuleMeans, autocast, evaluate, train_epoch
from localsl.init import stream
from localsl.measure.memory import PeakMemory
from localsl.network import LocalNetwork, build_network, count_parameters
from localsl.optim import learning_rate
from localsl.schema import LocalslError

if TYPE_CHECKING:
    from localsl.settings import Config


class Diverged(LocalslError):
    """A loss is no longer a finite number. Exit code 3."""

    exit_code = 3


def run(cfg: Config) -> dict[str, Any] | None:
    """Train and record the run of a configuration; a finished one is only told again.

    Returns:
        its record, of which only the status "held" where another process is at it and `cfg.held` is "skip";
        None if only something to be shown was asked for.

    Raises:
        ConfigError: if the data set is not to be had.
        Diverged: if a module's loss stops being finite.
    """
    if cfg.show == "runs":
        print(tracking.summary(tracking.found_runs(cfg.output_dir)))
        return None
    if cfg.show == "bench":
        from localsl.measure.bench import bench

        print(bench(cfg))
        return None
    if cfg.show == "modules":
        print(describe(cfg, build_network(cfg)))
        return None
    if cfg.measure is not None:
        from localsl.measure import command  # imports of its own that a training run does not wait for

        return command.run(cfg)
    record = _finished(cfg)
    if record is not None:
        return record
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    images = data.load(cfg)
    try:
        with tracking.exclusive(cfg):
            return _finished(cfg) or _train(cfg, images)
    except tracking.Held:
        print(f"another process is at this run, and it is left to it: {identity.run_directory(cfg)}")
        return {"status": "held"}


def _finished(cfg: Config) -> dict[str, Any] | None:
    for folder in (identity.run_directory(cfg), tracking.kept_directory(cfg)):
        record = tracking.read(folder / "record.json")
        if record is not None and record["status"] == "done":
            print(f"This run is done: {folder} (delete the folder to run it again)")
            print(closing(record))
            return record
    return None


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
    weightless = objectives.weightless([module.objective for module in network.local_modules])
    if weightless:
        lines.append(f"warning: all loss weights are 0 in module {', '.join(map(str, weightless))}")
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


def _train(cfg: Config, images: data.Data) -> dict[str, Any]:
    device = devices.chosen(cfg.device)
    devices.prepare(device)
    network = build_network(cfg)
    print(describe(cfg, network), flush=True)
    layout = torch.channels_last if cfg.channels_last else torch.contiguous_format
    network.to(device=device, memory_format=layout)  # pyright: ignore[reportCallIssue]
    optimizer = optim.build(network.parameters(), cfg.optimizer)
    train = TrainBatches(images.train, cfg.dataset, cfg.batch_size, device, layout)
    test = TestBatches(images.test, cfg.dataset, cfg.batch_size, device, layout)
    forward = autocast(cfg.precision, device)
    memory = PeakMemory(network, optimizer, len(train), cfg.schedule.epochs)
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
        tracker.start(record)
        for epoch in range(1, cfg.schedule.epochs + 1):
            optimizer.lr = lr = learning_rate(epoch, cfg.optimizer.lr, cfg.schedule)
            began = time.perf_counter()
            torch.manual_seed(stream(cfg.seed, "training", epoch))  # of dropout
            batches = progress.steps(train.epoch(cfg.seed, epoch))
            means = train_epoch(network, optimizer, batches, forward, memory.step)
            images_per_s = len(images.train) / (time.perf_counter() - began)
            loss, accuracy = evaluate(network, test, forward)
            _check_finite([*(mean.loss for mean in means), loss], epoch, lr)
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
        record["traceback"] = traceback.format_exc()
        raise
    finally:
        progress.close()
        record["seconds"] = time.perf_counter() - start
        record["peak_memory_bytes"] = memory.bytes
        record["peak_memory_scope"] = memory.scope
        tracker.close(record)
    print(closing(record))
    print(f"written to {identity.run_directory(cfg)}")
    return record


def _check_finite(losses: list[float | None], epoch: int, lr: float) -> None:
    """Of every module in training, and last of the network in evaluation."""
    names = [*(f"loss of module {i}" for i in range(len(losses) - 1)), "test loss"]
    for name, loss in zip(names, losses, strict=True):
        if loss is not None and not math.isfinite(loss):
            what = f"the {name} is {loss} in epoch {epoch} at learning rate {lr:g}"
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
