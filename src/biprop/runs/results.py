"""results.csv: one row per complete run, appended under a lock."""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .. import screen
from ..config import Config
from ..errors import UserError, one_line
from ..files import atomic_write, sync_folder

RESULT_COLUMNS = (
    "Date Finished",
    "Base Config",
    "Current Val Top 1",
    "Current Val Top 5",
    "Best Val Top 1",
    "Best Val Top 5",
    "Best Train Top 1",
    "Best Train Top 5",
    "Name",
    "Seed",
    "Prune Rate",
    "Learning Rate",
    "Epochs",
    "Weight Decay",
    "Learn BN",
    "Tune BN",
    "Bias Only",
    "Run Directory",
    "Test Top 1",
    "Test Top 5",
    "Selected On",
    "Density",
    "Network",
    "Data Set",
    "Conv Type",
    "Optimizer",
    "Augmentation",
    "Minutes",
)
"""Those of the original research code, then ours from "Test Top 1" on. New ones come last: tables
with fewer are extended."""
_FEWEST_COLUMNS = 18
"""Columns of the original research code."""

LOCK_TIMEOUT = 30.0
"""Seconds to wait for a table that another process has locked."""
_NOTICE_AFTER = 1.0
"""Seconds after which the user hears of that wait."""
_ROW_SUFFIX = ".row"
"""Suffix of the files that hold a row until it is appended to the table."""


def check_results(path: Path) -> None:
    """Raise UserError if `path` is a table with other columns: better before a run than after."""
    if not path.exists() or not path.stat().st_size:
        return
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header = tuple(next(csv.reader(file), ()))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path}: cannot be read: {one_line(e)}") from None
    if header != RESULT_COLUMNS and not _has_fewer_columns(header):
        raise UserError(
            f"{path}: has other columns than this program writes: move it away or choose another"
            " --log-dir"
        )


def _has_fewer_columns(header: Sequence[str]) -> bool:
    """Whether a table is one of an earlier version, which lacks the last columns."""
    count = len(header)
    is_start = tuple(header) == RESULT_COLUMNS[:count]
    return is_start and _FEWEST_COLUMNS <= count < len(RESULT_COLUMNS)


def append_result(
    path: Path,
    row: Mapping[str, Any],
    is_asked_to_stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = screen.report,
) -> None:
    """Append the row of a run to results.csv, unless the table has this very row.

    Runs that end at the same time wait for each other, but at most `LOCK_TIMEOUT` seconds, and only
    until `is_asked_to_stop`. After that the row goes into a file of its own beside the table, and
    into the table with the next run that ends.

    Args:
        row: values by the names of `RESULT_COLUMNS`; a missing one is left empty.
        tell: takes a line for the user about such a wait.

    Raises:
        UserError: the table, or that file, cannot be written.
    """
    line = _csv_line(row.get(column, "") for column in RESULT_COLUMNS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, is_asked_to_stop, tell) as is_locked:
            if is_locked:
                _append_with_waiting_rows(path, line)
            else:
                _write_waiting_row(path, line, tell)
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror or one_line(e)}") from None


def _write_waiting_row(path: Path, line: bytes, tell: Callable[[str], None]) -> None:
    """Write the row into a file beside the table."""
    digest = hashlib.sha256(line).hexdigest()[:12]
    name = f"{path.name}.{digest}{_ROW_SUFFIX}"
    with atomic_write(path.with_name(name)) as file:
        file.write(line)
    tell(f"{path}: still locked: the row waits in {name} for the next run that ends")


def _append_with_waiting_rows(path: Path, line: bytes) -> None:
    """Append the row, after those that wait in files beside the table; remove these files."""
    waiting = sorted(path.parent.glob(f"{glob.escape(path.name)}.*{_ROW_SUFFIX}"))
    _append(path, [*(file.read_bytes() for file in waiting), line])
    for file in waiting:
        file.unlink(missing_ok=True)


def _append(path: Path, lines: Sequence[bytes]) -> None:
    """Append the lines that a table does not have yet: all of them, or none where that fails."""
    table = _extended(path, path.read_bytes()) if path.exists() else b""
    addition = _addition(table, lines)
    with path.open("ab", buffering=0) as file:
        try:
            if file.write(addition) < len(addition):  # a full disk takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                os.truncate(path, len(table))
            raise
    sync_folder(path.parent)


def _extended(path: Path, table: bytes) -> bytes:
    """The content of a table; one with fewer columns is rewritten with the others, empty."""
    rows = list(csv.reader(io.StringIO(table.decode("utf-8", "backslashreplace"), newline="")))
    if not rows or not _has_fewer_columns(rows[0]):
        return table
    missing = len(RESULT_COLUMNS) - len(rows[0])
    lines = [_csv_line(RESULT_COLUMNS), *(_csv_line([*row, *[""] * missing]) for row in rows[1:])]
    content = b"".join(lines)
    with atomic_write(path) as file:
        file.write(content)
    return content


def _addition(table: bytes, lines: Sequence[bytes]) -> bytes:
    """What is to be appended to a table so that it has these lines."""
    is_line_cut = bool(table) and not table.endswith(b"\n")  # by a power cut
    start = b"\r\n" if is_line_cut else b""
    header = b"" if table else _csv_line(RESULT_COLUMNS)
    missing = [line for line in dict.fromkeys(lines) if b"\n" + line not in b"\n" + table]
    return start + header + b"".join(missing)


@contextmanager
def _locked(
    path: Path, is_asked_to_stop: Callable[[], bool], tell: Callable[[str], None]
) -> Iterator[bool]:
    """While the block runs, no other process appends to a table; False where the lock was not free
    in time.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(f"{path}.lock")
    waits = _waits(path, is_asked_to_stop, tell)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not next(waits, False):
                break
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _waits(
    path: Path, is_asked_to_stop: Callable[[], bool], tell: Callable[[str], None]
) -> Iterator[bool]:
    """Waits a moment before each True that it yields; ends where there is no use in waiting on."""
    start, has_told = time.monotonic(), False
    while (waited := time.monotonic() - start) <= LOCK_TIMEOUT and not is_asked_to_stop():
        if waited > _NOTICE_AFTER and not has_told:
            limit = f"waiting for it, at most {LOCK_TIMEOUT:.0f} s"
            tell(f"{path}: another process holds {path.name}.lock: {limit}")
            has_told = True
        time.sleep(0.05)
        yield True


def csv_cell(value: Any) -> Any:
    """The value for a CSV file: texts that a spreadsheet would take for a formula get an apostrophe
    in front.

    Names of runs, files and networks may begin with =, +, -, @, a tab or a line break.
    """
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS) and not _is_number(value):
        return f"'{value}"
    return value


_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


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
    """The path of the table that a run is appended to."""
    if config.results is None:
        return Path(config.log_dir) / "results.csv"
    path = Path(config.results)
    return path if path.suffix == ".csv" else path / "results.csv"
