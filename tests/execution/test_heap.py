"""Freed memory that stays with a process."""

import platform
import subprocess
import sys

import pytest

from localsl.execution import heap

FAULTS = """
import resource, runpy, sys
keep_freed = runpy.run_path(sys.argv[1])['keep_freed']

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        b"x" * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
returned = faults()
keep_freed()
faults()
print(returned, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep freed memory")
def test_pages_of_freed_memory_are_not_fetched_again():
    command = [sys.executable, "-c", FAULTS, heap.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    returned, kept = map(int, done.stdout.split())
    assert kept < returned / 100
