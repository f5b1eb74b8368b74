"""Training: the state of a run, the loop over its epochs, and resumption from a checkpoint."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.nn.utils import get_total_norm

from localsl.core.initialization import stream
from localsl.core.settings import ConfigError, Problem
from localsl.execution import devices
from localsl.execution.processes import ALONE, Team, Votes
from localsl.runs import staging
from localsl.runs.checkpoint import Checkpoints
from localsl.runs.display import Progress
from localsl.runs.epochs import Diverged, better, check_finite, metrics_row, without_none
from localsl.train import health, optim
from localsl.train.optim import learning_rate
from localsl.train.peak_memory import PeakMemory
from localsl.train.signals import Stop
from localsl.train.step import Totals, autocast, counted_step, train_epoch, training_forward
from localsl.train.task import Figures, Task, TestBatches, score

if TYPE_CHECKING:
    from localsl.config.schema import Config

T = TypeVar("T")


class Training:
    """A run in training.

    Attributes:
        epochs, steps: the number of complete epochs, and of steps done in the next.
        rows: the rows of metrics.csv so far.
        warnings: the warnings so far about modules that do not learn.
        last, best: test figures of the last and the best epoch; None before the end of the first.
        selected: test figures of the epoch with the best validation accuracy; None without validation images.
        seconds: training time before this process resumed the run.
        memory: the peak memory so far.
    """

    def __init__(self, cfg: Config, task: Task, device: torch.device, team: Team = ALONE):
        network = task.network
        self._cfg, self._task, self._network, self._team = cfg, task, network, team
        devices.place(network, cfg, device)
        self._stage = staging.staged(cfg, task, team) if team.replicas < team.size else None
        batches = staging.batches(cfg, task, device, team, self._stage)
        self._train, self._test, self._validation = batches.train, batches.test, batches.validation
        self._optimizer = optim.build(network.parameters(), cfg.optimizer)
        self._images = task.images["train"]
        self._forward = autocast(cfg.precision, device)
        self._device = device
        self._totals = Totals(network)
        forward, graphs = training_forward(cfg, device), devices.graphs(cfg)
        step = counted_step(network, self._optimizer, self._totals, forward, graphs, team)
        self._step = step if self._stage is None else self._stage.step(step)
        self._checkpoints = Checkpoints(cfg)
        steps, epochs = len(self._train), cfg.schedule.epochs
        self.memory = PeakMemory(network, self._optimizer, steps, epochs, cfg.compile, cfg.cuda_graph)
        self.epochs = self.steps = 0
        self.rows: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.last: dict[str, Any] | None = None
        self.best: dict[str, Any] | None = None
        self.selected: dict[str, Any] | None = None
        self.seconds = 0.0
        self._norms: health.Norms | None = None
        self._lr = 0.0  # of the epoch; the steps of a warm-up use less
        self._began = time.perf_counter()

    def resume(self) -> bool:
        """Resume from the newest intact checkpoint of the run; return False if there is none.

        Raises:
            ConfigError: if the processes do not find the same checkpoint.
        """
        state = self._team.leader_first(lambda: self._checkpoints.newest(set_aside=True))
        found = self._team.gather(None if state is None else (state["epochs"], state["steps"]))
        if len(set(found)) > 1:
            what = "the processes do not see the same checkpoints in it"
            raise ConfigError(
                [Problem("output_dir", self._cfg.output_dir, what, "type a folder that all of them share")]
            )
        if state is None:
            return False
        own = state["processes"][self._team.rank if self._stage is None else 0]
        optimizer = state["optimizer"]
        if self._stage is not None:
            optimizer = [optimizer[position] for position in self._stage.positions()]
        self._network.load_held(state["network"])
        self._optimizer.load_state_dict(optimizer)
        self._totals.restore(own["totals"])
        self.epochs, self.steps, self.rows = state["epochs"], state["steps"], state["rows"]
        self.warnings = state["warnings"]
        self.last, self.best, self.seconds = state["last"], state["best"], state["seconds"]
        self.selected = state.get("selected")  # absent from checkpoints of earlier versions
        if state["peak_memory_scope"] != self.memory.scope:
            other = f"another kind of device than {self._device.type}"
            print(f"note: this run began on {other}; its numbers are equal up to rounding only")
        self.memory.resume(self.epochs * len(self._train) + self.steps, self._known_peak(state))
        torch.set_rng_state(own["random"])
        if self._device.type == "cuda" and own["cuda_random"] is not None:
            torch.cuda.set_rng_state(own["cuda_random"], self._device)
        return True

    def _known_peak(self, state: dict[str, Any]) -> int | None:
        """This process's peak at a checkpoint; None if unknown, or measured on another kind of device."""
        stages = 1 if self._stage is None else self._team.size
        peaks = state.get("stage_peaks_bytes", [state["peak_memory_bytes"]])
        alike = state["peak_memory_scope"] == self.memory.scope and len(peaks) == stages
        return peaks[self._team.rank if self._stage is not None else 0] if alike else None

    @property
    def peaks(self) -> list[int | None]:
        """The peak memory of every stage; of this process alone if modules are not distributed."""
        return [self.memory.bytes] if self._stage is None else self._team.gather(self.memory.bytes)

    def save(self) -> None:
        """Write a checkpoint, if the run has any. It may be called only between two steps.

        Raises:
            Diverged: if weights, statistics or the optimizer's state are not finite: a run cannot resume from them.
        """
        if self._cfg.checkpoint.every is None:
            return
        if not self._finite():
            raise Diverged(f"diverged: weights are no longer finite after {self.epochs} epochs")
        cuda = self._device.type == "cuda"
        own = {
            "totals": self._totals.state(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self._device) if cuda else None,
        }
        state = {**self._state(own), **self._progress()}
        self._team.broadcast(lambda: self._checkpoints.save(state, self.epochs, self.steps))

    def _state(self, own: dict[str, Any]) -> dict[str, Any]:
        """Weights, optimizer state and the state of each process, in the form of a run without stages."""
        if self._stage is not None:
            return staging.collected(self._network, self._optimizer, self._stage, own, self._team)
        weights = {"network": self._network.state_dict(), "optimizer": self._optimizer.state_dict()}
        return weights | {"processes": self._team.gather(own)}

    def _progress(self) -> dict[str, Any]:
        """The rest of the state, which is equal in all processes."""
        peaks = self.peaks
        return {
            "epochs": self.epochs,
            "steps": self.steps,
            "rows": self.rows,
            "warnings": self.warnings,
            "last": self.last,
            "best": self.best,
            "selected": self.selected,
            "seconds": self.elapsed,
            "peak_memory_bytes": max((peak for peak in peaks if peak is not None), default=None),
            "peak_memory_scope": self.memory.scope,
            **({} if self._stage is None else {"stage_peaks_bytes": peaks}),
        }

    def _finite(self) -> bool:
        """Whether all tensors of a checkpoint, and all losses of the epoch, are finite."""
        states = (value for state in self._optimizer.state_dict() for value in state.values())
        tensors = [*self._network.held_state().values(), *states]
        # The maximum is not finite if any value is not, and it takes one kernel for many tensors.
        largest = get_total_norm([t for t in tensors if t.is_floating_point()], math.inf)
        return not self._team.max(not (bool(largest.isfinite()) and self._totals.finite()))

    def close(self) -> None:
        """Keep only the last checkpoint, and end the stage if there is one."""
        if self._stage is not None:
            self._stage.finish()
        if self._team.leader:
            self._checkpoints.keep(1)

    @property
    def elapsed(self) -> float:
        """Seconds of training, including those before the run was resumed."""
        return self.seconds + time.perf_counter() - self._began

    def train(self, stop: Stop) -> Generator[dict[str, Any]]:
        """Train the remaining epochs, and yield a row of metrics.csv after each.

        Checkpoints are written at the end of epochs as configured in `cfg.checkpoint`, and when a stop is requested.

        Raises:
            Diverged: if a loss stops being finite.
            KeyboardInterrupt, SystemExit: if a stop is requested.
        """
        cfg, steps = self._cfg, len(self._train)
        progress = Progress(cfg.schedule.epochs, steps, self.epochs * steps + self.steps, self._team.leader)
        try:
            while self.epochs < cfg.schedule.epochs:
                row = self._epoch(progress, stop)
                yield row
                assert self.best is not None
                progress.epoch(row, score(self.best))
                if cfg.checkpoint.due(self.epochs) or self.epochs == cfg.schedule.epochs:
                    self.save()
        finally:
            progress.close()
            self._train.close()
            self._test.close()
            if self._validation is not None:
                self._validation.close()

    def _epoch(self, progress: Progress, stop: Stop) -> dict[str, Any]:
        cfg, epoch = self._cfg, self.epochs + 1
        self._optimizer.lr = self._lr = lr = learning_rate(epoch, cfg.optimizer.lr, cfg.schedule)
        if not self.steps:
            self._totals.clear()
            # For dropout: processes with different images draw different numbers.
            others = [self._team.part.rank] if self._team.part.rank else []
            torch.manual_seed(stream(cfg.seed, "training", epoch, *others))
        began, skipped = time.perf_counter(), self.steps
        batches = progress.steps(self._stoppable(stop, self._train.epoch(cfg.seed, epoch, skipped)))
        train_epoch(self._network, self._step, batches, self._totals, self._around_step)
        images = max(0, self._images - skipped * cfg.batch_size)
        means = self._totals.means(self._team)  # waits for queued steps, so that the time below is complete
        images_per_s = images / (time.perf_counter() - began)
        test = self._evaluated(self._test, stop)
        figures = {**without_none(test_loss=test.loss), **test.accuracies}
        if self._validation is not None:
            held_out = self._evaluated(self._validation, stop)
            figures |= {"validation_accuracy": score(held_out.accuracies)}
            figures |= without_none(validation_loss=held_out.loss)
        check_finite([mean.loss for mean in means], figures, epoch, lr)
        self.epochs, self.steps = epoch, 0
        self.last = {"epoch": epoch, **test.accuracies, **figures}
        if self.best is None or score(test.accuracies) > score(self.best):
            self.best = self.last
        if self._validation is not None:
            self.selected = better(self.selected, self.last, "validation_accuracy")
        self.rows.append(metrics_row(epoch, lr, means, figures, images_per_s))
        self._warn()
        return self.rows[-1]

    def _evaluated(self, batches: TestBatches, stop: Stop) -> Figures:
        return self._task.evaluate(self._stoppable(stop, batches), self._forward, self._team)

    def _warn(self) -> None:
        found = self._team.gather(self._task.complaints(self.rows, self._norms))
        for text in (text for texts in found for text in texts):
            if text not in self.warnings:
                self.warnings.append(text)
                if self._team.leader:
                    print(f"warning: {text}, after {self.epochs} epochs", file=sys.stderr)

    @contextmanager
    def _around_step(self) -> Iterator[None]:
        # Gradient norms are recorded in the last step of an epoch only, and only if gradients are freed in it.
        warmup = self._cfg.schedule.warmup_steps
        if warmup and not self.epochs:
            steps = min(warmup, len(self._train) - 1)
            self._optimizer.lr = self._lr * optim.warmup_factor(self.steps, steps)
        watched = self._optimizer.per_module and self.steps + 1 == len(self._train)
        with self.memory.step(), health.gradient_norms(self._network) if watched else nullcontext() as norms:
            yield
        self._norms = norms
        self.steps += 1

    def _stoppable(self, stop: Stop, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches with a safe point to stop before each; all processes stop if any is asked to."""
        votes, coming = Votes(self._team), iter(batches)
        while True:
            if votes.ahead:  # vote before fetching: a stage that stops must not pass on another batch
                self._stop_if(votes.max(stop.asked or 0), stop)
            batch = next(coming, None)
            if batch is None:
                break
            if not votes.ahead:  # vote after fetching: a signal may arrive while the batch is made
                self._stop_if(votes.max(stop.asked or 0), stop)
            yield batch
        self._stop_if(votes.close(), stop)  # of phases with fewer batches than the delay, the only chance

    def _stop_if(self, asked: int, stop: Stop) -> None:
        """Save and stop; `asked` is equal in all processes, while a signal may have reached only some of them."""
        if asked:
            with suppress(Diverged):  # the last checkpoint is then the one before the divergence
                self.save()
            stop.grant(asked)
