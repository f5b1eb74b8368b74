"""One run from a validated configuration to its record: data, network, epochs, figures."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import torch

from localsl import data, devices, identity, objectives, signals, tracking
from localsl.checkpoint import Checkpoints
from localsl.network import LocalNetwork, build_network, count_parameters
from localsl.training import Diverged, Training

if TYPE_CHECKING:
    from localsl.settings import Config


def run(cfg: Config) -> dict[str, Any] | None:
    """Train and record the run of a configuration; a finished one is only told again.

    Returns:
        its record, of which only the status "held" where another process is at it and `cfg.held` is "skip";
        None if only something to be shown was asked for.

    Raises:
        ConfigError: if the data set, or what an analysis is of, is not to be had.
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
    if cfg.analysis.kind != "none":
        from localsl.analysis import command

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
    if Checkpoints(cfg).lacking:
        return None
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
    training = Training(cfg, network, images, device)
    if training.resume():
        more = f" and {training.steps} steps" if training.steps else ""
        print(f"going on after {training.epochs} of {cfg.schedule.epochs} epochs{more}", flush=True)
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
    tracker = tracking.Tracker(cfg, training.rows)
    try:
        tracker.start(record)
        with signals.heeded() as stop:
            for row in training.train(stop):
                tracker.row(row)
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
        record["last"], record["best"] = training.last, training.best
        record["seconds"] = training.elapsed
        record["peak_memory_bytes"] = training.memory.bytes
        record["peak_memory_scope"] = training.memory.scope
        tracker.close(record)
    training.close()
    print(closing(record))
    print(f"written to {identity.run_directory(cfg)}")
    return record
