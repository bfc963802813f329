"""results.csv: one row a finished run, appended under a lock."""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .. import screen
from ..config import Config
from ..errors import UserError, one_line
from ..files import replace_text, replacing, sync_folder
from ..screen import printable


RESULT_COLUMNS = (
    "Date Finished", "Base Config",
    "Current Val Top 1", "Current Val Top 5", "Best Val Top 1", "Best Val Top 5", "Best Train Top 1", "Best Train Top 5",
    "Name", "Seed", "Prune Rate", "Learning Rate", "Epochs", "Weight Decay", "Learn BN", "Tune BN", "Bias Only",
    "Run Directory", "Test Top 1", "Test Top 5", "Selected On", "Density",
)  # fmt: skip


def check_results(path: Path) -> None:
    """Raise UserError if `path` is a table with other columns: better before a run than after it."""
    if path.exists() and path.stat().st_size:
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header = tuple(next(csv.reader(file), ()))
        except (OSError, UnicodeDecodeError, csv.Error) as e:
            raise UserError(f"{path}: cannot be read: {one_line(e)}") from None
        if header != RESULT_COLUMNS:
            raise UserError(
                f"{path}: has other columns than this program writes: move it away or choose another --log-dir"
            )


LOCK_PATIENCE = 30.0
"""Seconds to wait for a table that another process has locked."""
_TELL_OF_WAITING = 1.0


def append_result(
    path: Path,
    row: Mapping[str, Any],
    is_asked_to_stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = screen.tell,
) -> None:
    """Append one run to results.csv, unless this very row is there.

    Runs that end at the same time wait for each other, but at most `LOCK_PATIENCE` seconds, and
    only until `is_asked_to_stop`. Then the row goes into a file of its own beside the table, and
    into the table with the next run that ends. `tell` takes what is to be said of that.

    Raises:
        UserError: the table, or the file, cannot be written.
    """
    line = _csv_line(row.get(column, "") for column in RESULT_COLUMNS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, is_asked_to_stop, tell) as is_ours:
            if not is_ours:
                name = f"{path.name}.{hashlib.sha256(line).hexdigest()[:12]}{_WAITING}"
                with replacing(path.with_name(name)) as file:
                    file.write(line)
                tell(f"{path}: still locked: the row waits in {name} for the next run that ends")
                return
            waiting = sorted(path.parent.glob(f"{glob.escape(path.name)}.*{_WAITING}"))
            _append(path, [*(one.read_bytes() for one in waiting), line])
            for one in waiting:
                one.unlink(missing_ok=True)
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror or one_line(e)}") from None


_WAITING = ".row"
"""Ending of the files that hold a row for a table."""


def _append(path: Path, lines: Sequence[bytes]) -> None:
    """Append the lines that a table does not have yet, all or none."""
    table = path.read_bytes() if path.exists() else b""
    # A power cut may have left half a line.
    new = b"" if not table or table.endswith(b"\n") else b"\r\n"
    new += b"" if table else _csv_line(RESULT_COLUMNS)
    new += b"".join(line for line in dict.fromkeys(lines) if b"\n" + line not in b"\n" + table)
    with path.open("ab", buffering=0) as file:
        try:
            if file.write(new) < len(new):  # a full disk takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                os.truncate(path, len(table))
            raise
    sync_folder(path.parent)


@contextmanager
def _locked(
    path: Path, is_asked_to_stop: Callable[[], bool], tell: Callable[[str], None]
) -> Iterator[bool]:
    """While the block runs, no other process appends to a table; False where that took too long."""
    from filelock import FileLock, Timeout

    lock, began, has_told = FileLock(f"{path}.lock"), time.monotonic(), False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waited = time.monotonic() - began
            if waited > LOCK_PATIENCE or is_asked_to_stop():
                break
            if waited > _TELL_OF_WAITING and not has_told:
                patience = f"waiting for it, at most {LOCK_PATIENCE:.0f} s"
                tell(f"{path}: another process holds {path.name}.lock: {patience}")
                has_told = True
            time.sleep(0.05)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def csv_cell(value: Any) -> Any:
    """What goes into a CSV file: texts that a spreadsheet would compute begin with an apostrophe.

    Names of runs, files and networks may begin with =, +, -, @, a tab or a line break.
    """
    if isinstance(value, str) and value.startswith(_FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _csv_line(values: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow([csv_cell(value) for value in values])
    return text.getvalue().encode("utf-8", errors="backslashreplace")


def results_file(config: Config) -> Path:
    """The table that a run is appended to."""
    if config.results is None:
        return Path(config.log_dir) / "results.csv"
    path = Path(config.results)
    return path if path.suffix == ".csv" else path / "results.csv"
