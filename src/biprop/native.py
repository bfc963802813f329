"""The compiled core (csrc/), where there is one.

It is built when biprop is installed on a machine with a C++ compiler.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 5
"""Version of the functions' arguments; a library of another version is not used."""

FILE = "_core.dll" if sys.platform == "win32" else "_core.so"
"""Beside this file, put there by CMakeLists.txt."""

IMAGES, WEIGHTS = 16, 1 << 18
"""Grain sizes: images, and weights, that a thread takes at a time."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled core, or None if there is none of this version.

    In the environment, BIPROP_CORE names another file of it, as `make sanitize` builds one, and
    BIPROP_ISA the instruction set that it uses instead of the best of this machine.

    Raises:
        UserError: BIPROP_ISA names an instruction set that this machine or this core does not have.
    """
    core = _opened()
    if isinstance(core, str):
        return None
    forced, available = os.environ.get("BIPROP_ISA"), instruction_sets(core)
    if forced and forced not in available:
        raise UserError(
            f"BIPROP_ISA={forced}: must be one of {', '.join(available)}, the instruction sets of"
            " this machine"
        )
    return core


def path() -> Path:
    """Where the compiled core is looked for."""
    return Path(os.environ.get("BIPROP_CORE") or Path(__file__).with_name(FILE))


def why_missing() -> str:
    """Why `library` returns None: a phrase for messages; empty where it does not."""
    core = _opened()
    return core if isinstance(core, str) else ""


def instruction_sets(core: ctypes.CDLL) -> list[str]:
    """The instruction sets that this machine and this core have, the fastest first."""
    core.biprop_instruction_sets.restype = ctypes.c_char_p
    return core.biprop_instruction_sets().decode().split()  # type: ignore[no-any-return]


def _opened() -> ctypes.CDLL | str:
    """The compiled core, or why there is none."""
    try:
        core = ctypes.CDLL(str(path()))
        version = core.biprop_core_version()
    except OSError as e:
        return f"cannot be loaded: {one_line(e)}" if path().is_file() else "no such file"
    except AttributeError:
        return "not a compiled core of biprop"
    if version != VERSION:
        return f"has version {version}, and this biprop needs version {VERSION}"
    return core


def include_dir() -> Path:
    """The folder of biprop.h, the engine's C interface; the compiled core lies in its parent."""
    return Path(__file__).with_name("include")


def cmake_dir() -> Path:
    """The folder of biprop-config.cmake: `biprop_DIR` of CMake's find_package(biprop)."""
    return Path(__file__).with_name("cmake")


def cores() -> int:
    """Number of processors that this process may use, at least 1: the most threads of an engine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_size() -> int:
    """Bytes of this machine's memory; where it is unknown, no limit."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63


def run(
    function: Any,
    addresses: Sequence[int],
    count: int,
    threads: int,
    *,
    sizes: Sequence[int | ctypes.c_int64] = (),
    arrays: Sequence[NDArray[Any]] = (),
    grain: int,
) -> None:
    """Call function(addresses..., first, last, sizes..., arrays...) of the core for all chunks of
    0 .. count; see `in_threads`.
    """
    before = [ctypes.c_void_p(address) for address in addresses]
    after = [*sizes, *(ctypes.c_void_p(array.ctypes.data) for array in arrays)]

    def chunk(first: int, last: int) -> None:
        function(*before, ctypes.c_int64(first), ctypes.c_int64(last), *after)

    in_threads(chunk, count, threads, grain)


def in_threads(
    function: Callable[[int, int], object], count: int, threads: int, grain: int
) -> None:
    """Call function(first, last) for all chunks of 0 .. count, in this thread and others.

    The core runs without Python's lock. Chunks are small and taken one by one: PyTorch's own
    threads wait actively after an operation, and hold up one of ours.

    Args:
        function: of a chunk, first included, last excluded.
        count: items in all.
        threads: number of threads, this one included.
        grain: items of a chunk; the last one may be smaller.
    """
    starts = iter(range(0, count, grain))

    def work() -> None:
        for first in starts:
            function(first, min(first + grain, count))

    chunks = -(-count // grain)
    helpers = [_pool().submit(work) for _ in range(min(threads, chunks) - 1)]
    try:
        work()
    finally:
        _wait_for(helpers, starts)
    for helper in helpers:
        helper.result()


def _wait_for(helpers: Sequence[Future[None]], starts: Iterator[int]) -> None:
    """Let the helpers begin no further chunk, and wait for those that they have begun, however
    often the user interrupts: they write to memory that the caller is about to release.
    """
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            collections.deque(starts, maxlen=0)
            wait(helpers)
            break
        except KeyboardInterrupt as e:
            interrupt = e
    if interrupt:
        raise interrupt


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="biprop")


if hasattr(os, "register_at_fork"):  # a child has none of the threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
