"""Files that are always whole: written under a temporary name, and renamed (an atomic write)."""

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
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which replaces `path` in one step when the block ends (an atomic write).

    If the block fails, `path` stays as it is. When it has ended, file and name are on the disk: a
    power cut takes neither. A new file has the permissions that the umask leaves, an old one keeps
    its own. A symbolic link stays one: the file that it leads to is replaced.

    Raises:
        OSError: it cannot be written, or `path` is no file: a rename would remove a device.
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
            e.filename = str(path)  # the name that the user knows
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def _mode_of(target: Path) -> int | None:
    """The permissions of the file that is replaced; None if there is none.

    Raises:
        OSError: it is no file.
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
    """Have the names in a folder on the disk. Windows and some network disks cannot do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_file(path: Path) -> bool:
    """Whether there is a file; False for what cannot be a name, where `Path.is_file` raises."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long; a null character
        return False


def remove_unfinished(folder: Path) -> None:
    """Remove what `replacing` left in a folder when its process was killed; nobody else may write
    there.
    """
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path`, replacing it in one step."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))
