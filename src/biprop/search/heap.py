"""Memory that a training step frees stays with the process, for the next step.

The C library of Linux returns large blocks to the system when they are freed, and the system clears
every page (4 KiB) of a new block at its first use. A step allocates and frees the same gigabyte
again and again; these page faults take up to a tenth of its time, and more in a virtual machine.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of mallopt (glibc's malloc.h): the freed bytes at the end of the heap that are
returned; the size of a block from which on it may have a mapping of its own, which is returned as
soon as it is freed; the number of such mappings.
"""
NEVER = -1
"""Value of TRIM_THRESHOLD: nothing is returned."""
_WHILE_KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: NEVER}
_AFTERWARDS = {MMAP_MAX: 1 << 16, MMAP_THRESHOLD: 1 << 25, TRIM_THRESHOLD: 1 << 26}
"""glibc's own values, those of its thresholds after they have adapted to large blocks."""

_depth = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While the context is open, this process keeps the memory that it frees, for its next
    allocations; then it returns all that is free.

    Results are the same. It has no effect without glibc (macOS, Windows, musl). Contexts may be
    nested; the last one to end returns the memory.
    """
    global _depth
    libc = _glibc()
    if libc is None:
        yield
        return
    _depth += 1
    _set(libc.mallopt, _WHILE_KEPT)
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            _set(libc.mallopt, _AFTERWARDS)
            libc.malloc_trim(ctypes.c_size_t(0))


def _set(mallopt: Callable[[int, int], Any], values: dict[int, int]) -> None:
    for parameter, value in values.items():
        mallopt(parameter, value)


def _glibc() -> Any:
    """The C library, if it has the functions of glibc; else None."""
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.mallopt and libc.malloc_trim else None
    except (TypeError, OSError, AttributeError):  # TypeError: Windows
        return None
