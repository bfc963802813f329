"""Atomic writes: a file is written under a temporary name, and renamed when it is complete."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_UNFINISHED = ".unfinished"


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Write a file atomically: yields a binary file that replaces `path` when the block ends.

    If the block raises, `path` is unchanged. After the block, the content and the name are synced
    to disk and survive a power failure. A new file gets the permissions that the umask leaves, an
    existing one keeps its own. Of a symbolic link, the target is replaced.

    Raises:
        OSError: the file cannot be written, or `path` is not a regular file, such as a device,
            which a rename would remove.
    """
    target = Path(os.path.realpath(path))
    mode = _mode_of(target)
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}{_UNFINISHED}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(target)
    except OSError as e:
        if e.filename in (None, str(temporary)):
            e.filename = str(path)  # the name that the user passed
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def _mode_of(target: Path) -> int | None:
    """The permissions of an existing file; None if there is none.

    Raises:
        OSError: `target` is not a regular file.
    """
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(mode):
        return stat.S_IMODE(mode)
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    reason = os.strerror(number) if stat.S_ISDIR(mode) else "Not a regular file"
    raise OSError(number, reason, str(target))


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk; does nothing where that is impossible.

    Windows and some network file systems cannot open or sync a folder.
    """
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_file(path: Path) -> bool:
    """Whether `path` is a file; False for invalid names, for which `Path.is_file` raises."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long, or contains a null character
        return False


def remove_temporary_files(folder: Path) -> None:
    """Remove temporary files that killed processes left in a folder.

    No other process may be writing to the folder.
    """
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8; raises OSError as `atomic_write` does."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))
