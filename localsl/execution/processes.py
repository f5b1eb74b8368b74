"""The processes that train one run together, one a device: torchrun's or submitit's, most often one alone."""

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

PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Part:
    """What one of `size` processes takes of every training batch, and of the test images."""

    rank: int = 0
    size: int = 1

    def of_epoch(self, count: int, batch_size: int) -> list[Tensor]:
        """Positions in an epoch's order, a tensor a batch: equal parts for all processes.

        The last batch is filled up with the epoch's first images where it cannot be parted, as torch's
        DistributedSampler does.
        """
        filled = torch.arange(-(-count // self.size) * self.size) % count
        return [batch.chunk(self.size)[self.rank] for batch in filled.split(batch_size)]

    def of_all(self, count: int, batch_size: int) -> list[slice]:
        """Images of a batch each, none of which another process takes; as many for all, some maybe empty."""
        return [
            slice(begin + size * self.rank // self.size, begin + size * (self.rank + 1) // self.size)
            for begin in range(0, count, batch_size)
            for size in (min(batch_size, count - begin),)
        ]


WHOLE = Part()


@dataclass(frozen=True)
class Started:
    """This process among those that were started together, on all nodes and on its own."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def started() -> Started:
    """What torchrun, or submitit with several tasks, says of this process; else it is the only one."""
    env = os.environ
    if "RANK" not in env and "SUBMITIT_EXECUTOR" in env:
        from submitit.helpers import TorchDistributedEnvironment  # there, for it started this process

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    rank, size = int(env.get("RANK", 0)), int(env.get("WORLD_SIZE", 1))
    return Started(rank, size, int(env.get("LOCAL_RANK", rank)), int(env.get("LOCAL_WORLD_SIZE", size)))


class LostProcess(LocalslError):
    """Another process of this run has ended, or cannot be reached any more."""


class LeaderFailed(LocalslError):
    """The process that does something for all could not do it, and tells why."""


def fail(error: LocalslError) -> int:
    """Tell an error the short way, once on a machine; returns the exit code that goes with it."""
    if not isinstance(error, LeaderFailed) and not (error.alike and started().local_rank):
        print(error, file=sys.stderr, flush=True)
    if isinstance(error, LostProcess):
        os._exit(error.exit_code)  # leaving in the usual way, NCCL would wait for what never comes
    return error.exit_code


class Team:
    """The processes of a run. Every method but `part` is called by all of them, in the same order.

    Attributes:
        replicas: how many of them hold the same modules, and take a part of every batch each: all, or one where
            they share out the modules.
    """

    def __init__(self, rank: int = 0, size: int = 1, parallel: str = "data"):
        self.rank, self.size = rank, size
        self.replicas = size if parallel == "data" else 1
        # Gloo's, on CPUs: a first look at a large data set takes longer than a step may.
        self._patient: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if size > 1 else None

    @property
    def leader(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.rank == 0

    @property
    def part(self) -> Part:
        """This process's part of the images."""
        return Part(self.rank, self.size) if self.replicas > 1 else WHOLE

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            with lost():
                dist.all_reduce(tensor)
        return tensor

    def begin_sum(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Starts `sum`; what is returned waits for it."""
        if self.size == 1:
            return lambda: tensor
        with lost():
            work = dist.all_reduce(tensor, async_op=True)

        def wait() -> Tensor:
            assert work is not None
            with lost():
                work.wait()
            return tensor

        return wait

    def most(self, value: int) -> int:
        """The largest of all processes' values; nobody gets it before everybody has given theirs."""
        if self.size == 1:
            return value
        given = torch.tensor(value)
        with lost():
            dist.all_reduce(given, dist.ReduceOp.MAX)
        return int(given)

    def begin_most(self, value: int) -> Callable[[], int]:
        """Starts `most`; what is returned waits for it."""
        given = torch.tensor(value)
        with lost():
            work = dist.all_reduce(given, dist.ReduceOp.MAX, async_op=True)

        def wait() -> int:
            assert work is not None
            with lost():
                work.wait()
            return int(given)

        return wait

    def collect(self, value: T) -> list[T]:
        """Every process's value, in their order, for the leader; nothing for the others. Tensors are the CPU's."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.leader else None
        with lost():
            dist.gather_object(value, values, dst=0, group=self._patient)
        return values or []

    def gather(self, value: T) -> list[T]:
        """Every process's value, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with lost():
            dist.all_gather_object(values, value)
        return values

    def tell(self, find: Callable[[], T]) -> T:
        """What the leader finds, for all, however long it takes.

        Raises:
            LeaderFailed: in the others, if it raised.
        """
        if self.size == 1:
            return find()
        if self.leader:
            try:
                found = find()
            except BaseException:
                self._broadcast([False, None])
                raise
            self._broadcast([True, found])
            return found
        good, told = self._broadcast([None, None])
        if not good:
            raise LeaderFailed("process 0 failed")
        return told

    def in_turn(self, make: Callable[[], T]) -> T:
        """Made by the leader, then by all others, for whom it is there what the leader downloads or puts aside;
        warnings are the leader's alone.
        """
        made: list[T] = []
        self.tell(lambda: made.append(make()))
        if made:
            return made[0]
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            return make()

    def _broadcast(self, values: list[Any]) -> list[Any]:
        with lost():
            dist.broadcast_object_list(values, src=0, group=self._patient)
        return values


class Votes:
    """The largest of all processes' values, over and over: of processes that share out the modules each call
    returns that of some calls before, so that none waits for another that is steps behind.

    Attributes:
        ahead: by how many calls a value is given before it is returned.
    """

    def __init__(self, team: Team):
        self._team, self.ahead = team, team.size if team.replicas < team.size else 0
        self._underway: deque[Callable[[], int]] = deque()

    def most(self, value: int) -> int:
        """The largest, the same for all processes at their same call; 0 for the first calls."""
        if not self.ahead:
            return self._team.most(value)
        self._underway.append(self._team.begin_most(value))
        return self._underway.popleft()() if len(self._underway) > self.ahead else 0

    def close(self) -> None:
        """Wait for those under way; who gave a value gives it in the next votes too."""
        while self._underway:
            self._underway.popleft()()


ALONE = Team()


@contextmanager
def joined(processes: int | None, device: torch.device, parallel: str = "data") -> Iterator[Team]:
    """The team of a run, on this process's device; all but the leader print nothing inside.

    Raises:
        ConfigError: if there are not as many processes as the run is of.
    """
    here = started()
    if processes != here.size:
        what = f"{here.size} {'was' if here.size == 1 else 'were'} started"
        instead = f"type torchrun --nproc_per_node={processes} run.py ..., or leave processes out"
        raise ConfigError([Problem("processes", processes, what, instead)])
    if here.size == 1:
        yield ALONE
        return
    dist.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl")
    team = Team(here.rank, here.size, parallel)
    if device.type == "cuda":
        own = platform.node(), str(torch.cuda.get_device_properties(device).uuid)
        if len(set(team.gather(own))) < here.size:
            what = "some of them would share a GPU"
            raise ConfigError([Problem("processes", here.size, what, "start as many as there are GPUs")])
    with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if team.leader else nowhere):
        yield team
    dist.destroy_process_group()  # after an error others may be gone, and waiting for them would hang


@contextmanager
def lost() -> Iterator[None]:
    """Errors of the connection told as what they most often are."""
    try:
        yield
    except RuntimeError as error:  # gloo's and NCCL's, which have no class of their own
        if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
            raise
        what = f"process {dist.get_rank()}: another process of this run has ended or cannot be reached"
        what += f" ({first_line(error)})"
        raise LostProcess(f"{what}; the same command goes on from the last checkpoint") from error
