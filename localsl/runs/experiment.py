"""One run, from a validated configuration to its record."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from yaml import YAMLError

from localsl.core.settings import LocalslError
from localsl.execution import devices, processes
from localsl.execution.compiled import Compiled
from localsl.execution.processes import Team
from localsl.runs import display, identity, lock, provenance, stored, tasks, tracking
from localsl.runs.classification import Counts
from localsl.runs.epochs import Diverged
from localsl.runs.training import Training
from localsl.train import signals
from localsl.train.optim import learning_rate
from localsl.train.task import Task, score

if TYPE_CHECKING:
    from localsl.config.schema import Config

# Errors without a file name come from writing to a file, except for these, which are of exhausted resources and of
# closed pipes or connections.
NOT_WRITES = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.EPIPE, errno.ECONNRESET)


def run(cfg: Config, held: str = "wait") -> dict[str, Any]:
    """Train and record the run of a configuration; a finished run is not repeated, but its record is printed.

    Args:
        held: what to do while another process is training this run: `wait`, or `skip`.

    Returns:
        The record of the run, or {"status": "held"} if the run was skipped.

    Raises:
        ConfigError: if the data set is not available.
        Diverged: if a module's loss stops being finite.
    """
    device = devices.chosen(cfg.device)
    devices.prepare(device, cfg.deterministic, cfg.tf32)
    with processes.join(cfg.processes, device, cfg.parallel.name) as team, ExitStack() as open_until_done:
        record = team.broadcast(lambda: _finished(cfg))
        if record is not None:
            return record
        devices.use_threads(cfg)
        images = _loaded(cfg, team)
        record = team.broadcast(lambda: _held(cfg, held, open_until_done) or _finished(cfg))
        return record or _train(cfg, images, device, team)


def _loaded(cfg: Config, team: Team) -> tasks.Loaded:
    """The data in every process that makes its own batches; in the others, the number of images."""
    if team.replicas == team.size:
        return team.leader_first(lambda: tasks.load(cfg))
    loaded: list[tasks.Loaded] = []

    def counted() -> Counts:
        loaded.append(tasks.load(cfg))
        return Counts.of(loaded[0])

    counts = team.broadcast(counted)
    return loaded[0] if loaded else counts


def _held(cfg: Config, held: str, stack: ExitStack) -> dict[str, Any] | None:
    """Lock the run's folder until `stack` closes.

    Returns:
        None, or the record of a skipped run if another process has the lock.
    """
    try:
        stack.enter_context(lock.exclusive(cfg, held))
    except lock.Held:
        print(f"skipped, because another process is training it: {identity.run_directory(cfg)}")
        return {"status": "held"}
    return None


def _finished(cfg: Config) -> dict[str, Any] | None:
    folder = stored.finished(cfg)
    record = stored.read(folder / "record.json") if folder else None
    if record is not None:
        kept = folder == identity.kept_directory(cfg)
        again = "type checkpoint.required=true" if kept else "delete the folder"
        print(f"This run is done: {folder} ({again} to run it again)")
        print(closing(record))
    return record


def describe(cfg: Config, task: str) -> str:
    """A task's description, with warnings about the schedule."""
    lines = [task]
    if cfg.schedule.warmup_epochs >= cfg.schedule.epochs:
        warmup = f"schedule.warmup_epochs={cfg.schedule.warmup_epochs}"
        lines.append(f"note: {warmup} covers all {cfg.schedule.epochs} epochs")
    rates = (learning_rate(e, cfg.optimizer.lr, cfg.schedule) for e in range(1, cfg.schedule.epochs + 1))
    if not any(rates):
        typed = f"schedule.epochs={cfg.schedule.epochs}"
        lines.append(f"warning: with {typed} the learning rate is 0 in every epoch, and nothing is learned:")
        lines.append("the cosine ends at 0; type schedule.epochs=2, or schedule.zero_based=true")
    return "\n".join(lines)


def closing(record: dict[str, Any]) -> str:
    """A summary of a finished run, in a few lines."""
    last, best, compiled = record["last"], record["best"], record.get("compiled")
    compilation = f"compiled {compiled['graphs']} graphs in {compiled['seconds']:.1f} s\n" if compiled else ""
    top5 = [figures.get("test_top5_accuracy") for figures in (last, best)]
    accuracies = "" if None in top5 else f"top-5 accuracy {top5[0]:.2f} % and {top5[1]:.2f} %\n"
    selected = record.get("selected")
    if selected is not None:
        accuracies += (
            f"test accuracy {selected['test_accuracy']:.2f} % at the epoch with the best validation accuracy "
            f"({selected['epoch']}, {selected['validation_accuracy']:.2f} %)\n"
        )
    return compilation + (
        f"{display.figures(last)} at the last epoch, "
        f"{score(best):.2f} % at the best ({best['epoch']})\n{accuracies}"
        f"peak memory {display.mebibytes(record['peak_memory_bytes'])} ({record['peak_memory_scope']}), "
        f"{record['seconds']:.1f} s{_of_stages(record)}"
    )


def _of_stages(record: dict[str, Any]) -> str:
    peaks = record.get("stage_peaks_bytes")
    return f"\npeak memory by process: {', '.join(map(display.mebibytes, peaks))}" if peaks else ""


def _train(cfg: Config, images: tasks.Loaded, device: torch.device, team: Team) -> dict[str, Any]:
    task = tasks.build(cfg, images)
    print(describe(cfg, task.describe()), flush=True)
    try:
        training = Training(cfg, task, device, team)
        resumed = training.resume()
        tracker = tracking.Tracker(cfg, training.rows) if team.leader else tracking.Untracked()
    except (OSError, torch.OutOfMemoryError) as error:
        raise _with_advice(error, cfg) or error from error
    if resumed:
        more = f" and {training.steps} steps" if training.steps else ""
        print(f"resuming after {training.epochs} of {cfg.schedule.epochs} epochs{more}", flush=True)
    else:
        _mention_other_lengths(cfg)
    record = _new_record(cfg, task, team, device)
    together, stop = False, signals.Stop()  # `together`: all processes end for the same reason
    try:
        tracker.start(record)
        with signals.handled_by(stop), contextlib.closing(training.train(stop)) as rows:
            for row in rows:
                tracker.row(row)
        record["status"], record["stage_peaks_bytes"] = "done", training.peaks
    except Diverged:
        record["status"], together = "diverged", True
        raise
    except (KeyboardInterrupt, SystemExit):
        record["status"], together = "interrupted", stop.granted
        raise
    except BaseException as error:
        record["status"] = "failed"
        record["error"] = f"{type(error).__name__}: {error}"
        record["traceback"] = traceback.format_exc()
        explained = _with_advice(error, cfg)
        if explained is None:
            raise
        raise explained from error
    finally:
        record |= _results(training, task) | _memory(training, record.pop("stage_peaks_bytes", None))
        _close(tracker, record)
        if together:
            team.max(0)  # a barrier: torchrun ends the recording process as soon as another one has ended
    training.close()
    print(closing(record))
    print(f"written to {identity.run_directory(cfg)}")
    asked = team.max(stop.asked or 0)  # a request after the last safe point ends the process, not the run
    if asked:
        stop.grant(asked)
    return record


def _new_record(cfg: Config, task: Task, team: Team, device: torch.device) -> dict[str, Any]:
    """The record of a run that starts: what is trained, where, and by which versions."""
    return {
        "status": "running",
        "id": identity.run_id(cfg),
        "method": cfg.method.name,
        "dataset": cfg.dataset.name,
        "backbone": cfg.backbone.name,
        "K": cfg.K,
        "modules": len(task.network.local_modules),
        "seed": cfg.seed,
        "precision": cfg.precision,
        "schedule": cfg.schedule.name,
        "epochs": cfg.schedule.epochs,
        "processes": team.size,
        "images": task.images,
        **task.record,
        "last": None,
        "best": None,
        **provenance.environment(device),
    }


def _results(training: Training, task: Task) -> dict[str, Any]:
    """The fields of a record about what the run has reached, however it ended."""
    selected = {"selected": training.selected} if "validation" in task.images else {}
    compiled = getattr(task.network, "path_losses", None)
    return {
        "last": training.last,
        "best": training.best,
        **selected,
        "warnings": training.warnings,
        "seconds": training.elapsed,
        **({"compiled": compiled.compilations()} if isinstance(compiled, Compiled) else {}),
    }


def _memory(training: Training, peaks: list[int | None] | None) -> dict[str, Any]:
    """The fields of a record about peak memory: the largest over all stages, and that of each stage.

    Args:
        peaks: those of all stages; None if the run broke off, when other processes may be gone.
    """
    scope, known = (
        training.memory.scope,
        [peak for peak in peaks or [training.memory.bytes] if peak is not None],
    )
    figures = {"peak_memory_bytes": max(known, default=None), "peak_memory_scope": scope}
    return figures | ({"stage_peaks_bytes": peaks} if peaks and len(peaks) > 1 else {})


def _mention_other_lengths(cfg: Config) -> None:
    """Print a note on runs that differ only in the number of epochs, and why they are not resumed."""
    for file in sorted(identity.run_directory(cfg).parent.glob(f"seed={cfg.seed}-*/config.yaml")):
        try:
            values: Any = OmegaConf.to_container(OmegaConf.load(file))
            differing = identity.differing(asdict(cfg), values)
        except (OSError, LookupError, TypeError, ValueError, YAMLError):
            continue  # no configuration of a run, or one of another version
        if differing == ["schedule.epochs"]:
            print(f"note: {file.parent} is this run with {values['schedule']['epochs']} epochs.")
            print(
                "Its learning rates differ from the first epoch on, so that this run starts from the beginning."
            )


def _with_advice(error: BaseException, cfg: Config) -> LocalslError | None:
    """An error with advice, for an error caused by the machine; None for any other."""
    folder = identity.run_directory(cfg)
    resumes = "the same command resumes from the last checkpoint"
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        lower = "if memory ran out, lower dataset.workers (0 decodes in the main process) or batch_size"
        return LocalslError(f"a process that decodes images died ({error}): {lower}; {resumes}")
    if isinstance(error, OSError):
        what, file = error.strerror or error, error.filename
        # An error without a file name comes from a write to the run's folder, as does one with a file in it.
        writing = error.errno not in NOT_WRITES if file is None else folder in Path(os.fsdecode(file)).parents
        if writing:
            what = f"the run's folder {folder} cannot be written ({what}); make room, and {resumes}"
            return LocalslError(what)
        return LocalslError(f"{what}; {resumes}" if file is None else f"{file}: {what}; {resumes}")
    return None


def _close(tracker: tracking.Tracker, record: dict[str, Any]) -> None:
    """Write the record. If that fails after another error, only the other error is raised."""
    try:
        tracker.close(record)
    except OSError as error:
        print(f"the record cannot be written ({error.strerror or error})", file=sys.stderr)
        if record["status"] == "done":
            raise
