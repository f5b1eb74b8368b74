"""Calls in processes of their own: their values, their errors, their limits."""

import os
import signal
import time

import pytest
import torch

from localsl.core.settings import LocalslError
from localsl.execution import bounded
from localsl.execution.bounded import call_each

GIB = 2**30
WITHIN = {"at_once": 2, "memory": 4 * GIB, "seconds": 60.0, "imports": ["torch"]}


def act(what):
    """Do as told, and return the process's number."""
    if what == "raise":
        raise LocalslError("it does not work\nat all")
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "leave":
        os._exit(7)
    if what == "nap":
        time.sleep(2)
    if what == "sleep":
        time.sleep(60)
    if isinstance(what, float):
        reserved = torch.empty(int(what * GIB / 4))
        reserved[: GIB // 16].fill_(1)  # a quarter of a GiB; more would only take time
    print("not to be seen")
    return os.getpid()


def ended(arguments, **more):
    return dict(call_each(act, arguments, **WITHIN | more))


def test_each_call_has_a_process_and_an_outcome_of_its_own(capfd):
    found = ended(["a", "raise", "crash", "leave", "b"])
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert found[0].failure is found[4].failure is None
    assert len({found[0].value, found[4].value, os.getpid()}) == 3
    assert all(outcome.value is None for position, outcome in found.items() if position not in (0, 4))
    assert found[1].failure == "LocalslError: it does not work"
    assert "in act" in found[1].trace
    assert found[2].failure == "the process ended by SIGSEGV"
    assert found[3].failure == "the process ended with exit code 7"
    assert not any(outcome.out_of_memory for outcome in found.values())
    assert "not to be seen" not in capfd.readouterr().out


def test_memory_is_limited_and_its_peak_is_told():
    found = ended([0.5, 3.0], memory=2 * GIB)
    assert found[0].failure is None
    assert found[0].peak > 0.25 * GIB
    assert found[0].seconds > 0
    assert found[1].out_of_memory
    assert "allocate" in found[1].failure
    assert ended([3.0], memory=5 * GIB)[0].failure is None


def test_a_call_without_an_end_is_ended():
    began = time.monotonic()
    (outcome,) = ended(["sleep"], seconds=1.0).values()
    assert outcome.failure.startswith("not finished within ")
    assert time.monotonic() - began < 20
    assert outcome.seconds >= 1


def test_time_in_which_all_is_stopped_is_not_the_calls(monkeypatch):
    """As by SIGSTOP, or of a machine that sleeps: hours pass between two looks."""
    clock, real = iter(range(0, 10**9, 3600)), time.monotonic
    monkeypatch.setattr(bounded.time, "monotonic", lambda: next(clock))
    (outcome,) = ended(["nap"], seconds=30.0).values()
    monkeypatch.setattr(bounded.time, "monotonic", real)
    assert outcome.failure is None


def test_no_more_at_once_than_asked_for():
    began = time.monotonic()
    assert len(ended(["sleep", "sleep", "sleep"], seconds=1.0, at_once=1)) == 3
    assert time.monotonic() - began >= 3


def test_calls_at_work_end_with_the_iterator():
    calls = call_each(act, ["a", "sleep"], **WITHIN)
    assert next(calls)[0] == 0
    began = time.monotonic()
    calls.close()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("killed", [signal.SIGKILL])
def test_what_the_kernel_kills_is_out_of_memory(killed):
    (outcome,) = dict(call_each(die, [int(killed)], **WITHIN)).values()
    assert outcome.out_of_memory
    assert outcome.failure == "the process ended by SIGKILL"


def die(number):
    os.kill(os.getpid(), number)
