"""The processes of a run, one per device, as started by torchrun or submitit; most runs have one."""

from __future__ import annotations

import os
import platform
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from localsl.core.settings import ConfigError, LocalslError, Problem, first_line

T = TypeVar("T")

PATIENCE = timedelta(days=7)  # timeout for waiting while the leader checks or downloads data


@dataclass(frozen=True)
class Part:
    """The share that process `rank` of `size` takes of every training batch and of the test images."""

    rank: int = 0
    size: int = 1

    def of_epoch(self, count: int, batch_size: int) -> list[Tensor]:
        """This process's positions in an epoch's order, one tensor per batch, equally many for all processes.

        If the images cannot be divided equally, the epoch is extended by its first images, as torch's
        DistributedSampler does.
        """
        filled = torch.arange(-(-count // self.size) * self.size) % count
        return [batch.chunk(self.size)[self.rank] for batch in filled.split(batch_size)]

    def of_all(self, count: int, batch_size: int) -> list[slice]:
        """This process's disjoint share of the images, one slice per batch.

        All processes have equally many slices, some of which may be empty.
        """
        return [
            slice(begin + size * self.rank // self.size, begin + size * (self.rank + 1) // self.size)
            for begin in range(0, count, batch_size)
            for size in (min(batch_size, count - begin),)
        ]


WHOLE = Part()


@dataclass(frozen=True)
class Started:
    """The place of this process among those started together, on all nodes and on its own (`local_`)."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def started() -> Started:
    """The place of this process according to torchrun, or to submitit with several tasks; else it is alone."""
    env = os.environ
    if "RANK" not in env and "SUBMITIT_EXECUTOR" in env:
        from submitit.helpers import TorchDistributedEnvironment  # installed, since it started this process

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    rank, size = int(env.get("RANK", 0)), int(env.get("WORLD_SIZE", 1))
    return Started(rank, size, int(env.get("LOCAL_RANK", rank)), int(env.get("LOCAL_WORLD_SIZE", size)))


class LostProcess(LocalslError):
    """Another process of this run has ended or can no longer be reached."""


class LeaderFailed(LocalslError):
    """The leader failed at something that it does for all processes; it reports the error itself."""


def fail(error: LocalslError) -> int:
    """Print an error without its traceback, once per machine, and return its exit code."""
    if not isinstance(error, LeaderFailed) and not (error.alike and started().local_rank):
        print(error, file=sys.stderr, flush=True)
    if isinstance(error, LostProcess):
        os._exit(error.exit_code)  # an ordinary exit would hang, because NCCL waits for the lost process
    return error.exit_code


class Team:
    """The processes of a run; all of them must call the communicating methods in the same order.

    Attributes:
        rank, size: the place of this process, and the number of processes.
        replicas: the number of processes that share every batch: all of them, or 1 if they divide the modules.
    """

    def __init__(self, rank: int = 0, size: int = 1, parallel: str = "data"):
        self.rank, self.size = rank, size
        self.replicas = size if parallel == "data" else 1
        # A Gloo group with a long timeout: the first check of a large data set takes longer than a step may.
        self._patient: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if size > 1 else None

    @property
    def leader(self) -> bool:
        """Whether this process writes files and prints for all."""
        return self.rank == 0

    @property
    def part(self) -> Part:
        """This process's share of the images."""
        return Part(self.rank, self.size) if self.replicas > 1 else WHOLE

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            with connection_errors():
                dist.all_reduce(tensor)
        return tensor

    def begin_sum(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Start `sum`, and return a function that waits for it."""
        if self.size == 1:
            return lambda: tensor
        with connection_errors():
            work = dist.all_reduce(tensor, async_op=True)

        def wait() -> Tensor:
            assert work is not None
            with connection_errors():
                work.wait()
            return tensor

        return wait

    def max(self, value: int) -> int:
        """The largest of all processes' values; it is also a barrier."""
        if self.size == 1:
            return value
        largest = torch.tensor(value)
        with connection_errors():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def begin_max(self, value: int) -> Callable[[], int]:
        """Start `max`, and return a function that waits for it."""
        largest = torch.tensor(value)
        with connection_errors():
            work = dist.all_reduce(largest, dist.ReduceOp.MAX, async_op=True)

        def wait() -> int:
            assert work is not None
            with connection_errors():
                work.wait()
            return int(largest)

        return wait

    def collect(self, value: T) -> list[T]:
        """All processes' values by rank in the leader, an empty list elsewhere; tensors must be on the CPU."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.leader else None
        with connection_errors():
            dist.gather_object(value, values, dst=0, group=self._patient)
        return values or []

    def gather(self, value: T) -> list[T]:
        """All processes' values by rank, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with connection_errors():
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, compute: Callable[[], T]) -> T:
        """Compute a value in the leader only, and return it in all processes, however long it takes.

        Raises:
            LeaderFailed: in the other processes, if `compute` raised.
        """
        if self.size == 1:
            return compute()
        if self.leader:
            try:
                value = compute()
            except BaseException:
                self._broadcast_list([False, None])
                raise
            self._broadcast_list([True, value])
            return value
        succeeded, value = self._broadcast_list([None, None])
        if not succeeded:
            raise LeaderFailed("process 0 failed")
        return value

    def leader_first(self, make: Callable[[], T]) -> T:
        """Call `make` in the leader, then in the other processes, which use what the leader has downloaded or cached.

        Only the leader prints warnings.
        """
        made: list[T] = []
        self.broadcast(lambda: made.append(make()))
        if made:
            return made[0]
        with open(os.devnull, "w") as devnull, redirect_stderr(devnull):
            return make()

    def _broadcast_list(self, values: list[Any]) -> list[Any]:
        with connection_errors():
            dist.broadcast_object_list(values, src=0, group=self._patient)
        return values


class Votes:
    """Repeated maxima over all processes, delayed if these divide the modules.

    A call then returns the maximum of an earlier call, so that no process waits for one that is steps behind.

    Attributes:
        ahead: the delay in calls; 0 if processes do not divide the modules.
    """

    def __init__(self, team: Team):
        self._team, self.ahead = team, team.size if team.replicas < team.size else 0
        self._underway: deque[Callable[[], int]] = deque()

    def max(self, value: int) -> int:
        """The maximum, equal in all processes at the same call; 0 for the first `ahead` calls."""
        if not self.ahead:
            return self._team.max(value)
        self._underway.append(self._team.begin_max(value))
        return self._underway.popleft()() if len(self._underway) > self.ahead else 0

    def close(self) -> int:
        """Wait for pending maxima, and return the largest; 0 if there are none."""
        pending = [value() for value in self._underway]
        self._underway.clear()
        return max(pending, default=0)


ALONE = Team()


@contextmanager
def join(processes: int | None, device: torch.device, parallel: str = "data") -> Iterator[Team]:
    """Join the processes of a run; in this context only the leader prints.

    Raises:
        ConfigError: if another number of processes was started, or if two of them would share a GPU.
    """
    this = started()
    if processes != this.size:
        what = f"{this.size} {'was' if this.size == 1 else 'were'} started"
        instead = f"type torchrun --nproc_per_node={processes} run.py ..., or leave processes out"
        raise ConfigError([Problem("processes", processes, what, instead)])
    if this.size == 1:
        yield ALONE
        return
    dist.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl")
    team = Team(this.rank, this.size, parallel)
    if device.type == "cuda":
        gpu = platform.node(), str(torch.cuda.get_device_properties(device).uuid)
        if len(set(team.gather(gpu))) < this.size:
            what = "some of them would share a GPU"
            raise ConfigError([Problem("processes", this.size, what, "start as many as there are GPUs")])
    with open(os.devnull, "w") as devnull, redirect_stdout(sys.stdout if team.leader else devnull):
        yield team
    dist.destroy_process_group()  # not after an error, when other processes may be gone and waiting would hang


@contextmanager
def connection_errors() -> Iterator[None]:
    """Report errors of the connection between processes as `LostProcess`, their usual cause."""
    try:
        yield
    except RuntimeError as error:  # Gloo and NCCL raise no more specific class
        if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
            raise
        what = f"process {dist.get_rank()}: another process of this run has ended or cannot be reached"
        what += f" ({first_line(error)})"
        raise LostProcess(f"{what}; repeat the command to resume from the last checkpoint") from error
