"""Memory of the CPU's allocator that stays with the process between steps."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# Names of glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = 2**31 - 1  # the largest size that mallopt takes


@cache
def keep_freed() -> None:
    """Let glibc reuse freed memory instead of returning it to the operating system; elsewhere do nothing.

    Every step allocates and frees the same features. By default glibc returns large blocks when they are freed, and
    the kernel clears new pages in the next step, which takes 4 to 15 % of its time (docs/measuring.md). In exchange
    the process keeps the largest amount that it ever used.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, NEVER)
        mallopt(M_TRIM_THRESHOLD, NEVER)
