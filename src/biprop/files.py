"""Files that are always whole: written under a temporary name, and renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_UNFINISHED = ".unfinished"


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which replaces `path` in one step when the block ends; if the block fails, `path` stays as it is."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_file(path: Path) -> bool:
    """Whether there is a file; False for what cannot be a name, where `Path.is_file` raises."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long; a null character
        return False


def remove_unfinished(folder: Path) -> None:
    """Remove what `replacing` left in a folder when its process was killed; nobody else may write there."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path`, replacing it in one step."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))
