"""The folder of a run: its files, the lock of the process that writes to it, and how a run is found
again.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .. import __version__
from .. import config as options
from ..config import Config
from ..errors import UserError
from ..files import remove_temporary_files, sync_folder, write_text_atomically

CHECKPOINTS, LOGS = "checkpoints", "logs"
INITIAL, LAST, BEST = "initial.state", "epoch_most_recent.state", "model_best.pth"
"""In checkpoints/: before the first step, the newest, and the best epoch."""
SETTINGS, LAYERS, PROGRESS, RESULT = "settings.txt", "layers.json", "progress.json", "result.json"
"""Options; density of each layer; progress of the run (written every few seconds); accuracies
(written last of all).
"""
ROW = "results_row.json"
"""The run's row of results.csv, written before it is appended there: a run that is killed in
between and resumed appends the same row again, which the table then recognises.
"""
METRICS = "metrics.jsonl"
FINAL_STATUSES = ("stopped", "failed")
"""How the status begins that a run records where it ends before its time."""
_LOCK = ".running"
_LOCK_TIMEOUT = 1.0
"""Seconds to wait for the lock of a run folder: `biprop status` may hold it for a moment."""

_MACHINE_OPTIONS = options.with_roles(
    options.Role.DATA_PATH,
    options.Role.DATA_WORKERS,
    options.Role.OUTPUT_PATH,
    options.Role.MACHINE,
)
"""Options in which two starts of one run may differ."""


def _place(config: Config, config_name: str) -> Path:
    """The folder of the first run with these options."""
    parent = Path(config.log_dir) / config_name
    if config.width_mult != 1:
        parent /= f"width_mult={config.width_mult:g}"
    is_dense = config.prune_rate is None or config.conv_type == "DenseConv"
    rate = "none" if is_dense else f"{config.prune_rate:g}"
    return parent / f"prune-rate={rate}" / config.name


def make(config: Config, config_name: str, take_over: bool = False) -> Path:
    """Make the folder <log_dir>/<config>/prune-rate=<k>/<name>, or /0, /1, ... below it, with
    checkpoints/, logs/ and settings.txt in it.

    `take_over`: or return the folder of a run of these options that was killed before its first
    checkpoint.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    try:
        folder = _make_numbered(_place(config, config_name), config, take_over)
        (folder / CHECKPOINTS).mkdir(exist_ok=take_over)
        (folder / LOGS).mkdir(exist_ok=take_over)
        sync_folder(folder.parent)
        write_text_atomically(folder / SETTINGS, _versions() + options.as_yaml(config))
    except OSError as e:
        reason = f"cannot write the run folder: {e.strerror}: {e.filename}"
        raise UserError(f"--log-dir {config.log_dir}: {reason}") from None
    return folder


def _make_numbered(first: Path, config: Config, take_over: bool) -> Path:
    """Make `first`, or the first of `first`/0, `first`/1, ... that does not exist yet."""
    first.parent.mkdir(parents=True, exist_ok=True)
    folder, number = first, 0
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            if take_over and _has_only_begun(folder, config):
                return folder
            folder, number = first / str(number), number + 1


def _versions() -> str:
    """The comment above the settings: which versions made the run, and when."""
    now = datetime.now().isoformat(timespec="seconds")
    return f"# biprop {__version__}, torch {metadata.version('torch')}, {now}\n"


def newest(config: Config, config_name: str) -> Path | None:
    """The folder of the last run that was started with these options and got as far as a
    checkpoint; None if there is none.

    By number, not by time: clocks of several machines differ, and can be set back.
    """
    first = _place(config, config_name)
    for folder in reversed([first, *_numbered(first)]):
        if newest_checkpoint(folder) and _has_options(folder, config):
            return folder
    return None


def _has_only_begun(folder: Path, config: Config) -> bool:
    """Whether a run of these options was killed here before its first checkpoint."""
    if newest_checkpoint(folder) or not _has_options(folder, config):
        return False
    return not is_held(folder, read_object(folder / PROGRESS))


def _has_options(folder: Path, config: Config) -> bool:
    """Whether the run in a folder has these options, but for those of the machine."""
    if not (folder / SETTINGS).is_file():
        return False
    try:
        settings = options.read_file(folder / SETTINGS)
    except UserError:  # of another version of this program: not the same options
        return False
    of_the_run = {**options.as_dict(Config()), **settings}
    return without_machine(of_the_run) == without_machine(options.as_dict(config))


def without_machine(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options in which two starts of one run must agree."""
    return {name: value for name, value in settings.items() if name not in _MACHINE_OPTIONS}


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint from which a run continues; None if there is none."""
    paths = [folder / CHECKPOINTS / name for name in (LAST, INITIAL)]
    return next((path for path in paths if path.is_file()), None)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """While the block runs, only this process writes to the run folder.

    Incomplete files of a killed process are removed first.

    Raises:
        UserError: another process writes to the folder, or it cannot be written to.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK, timeout=_LOCK_TIMEOUT)
    try:
        lock.acquire()
    except Timeout:
        writer = writer_of(read_object(folder / PROGRESS))
        raise UserError(f"{folder}: another process runs this search ({writer})") from None
    except OSError as e:
        raise UserError(f"{folder}: cannot be written: {e.strerror}") from None
    try:
        remove_temporary_files(folder)
        remove_temporary_files(folder / CHECKPOINTS)
        yield
    finally:
        lock.release()


def is_held(folder: Path, progress: Mapping[str, Any]) -> bool:
    """Whether a process writes to the run folder; needs no permission to write there.

    `progress`: content of the folder's progress.json, for where its lock cannot be read.
    """
    lock = folder / _LOCK
    if not lock.exists():
        return False
    try:
        import fcntl
    except ImportError:  # Windows
        return _is_locked(lock)
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:  # another user's, or a file system without locks
        return _is_alive(progress)


def _is_locked(lock: Path) -> bool:
    from filelock import FileLock, Timeout

    try:
        with FileLock(lock, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _is_alive(progress: Mapping[str, Any]) -> bool:
    """Whether the process of a run still exists; False for one on another machine."""
    if progress.get("machine") != socket.gethostname():
        return False
    try:
        os.kill(int(progress["process"]), 0)
    except PermissionError:
        return True
    except (KeyError, TypeError, ValueError, OSError, OverflowError):
        return False
    return True


class ProgressFile:
    """Writes progress.json, which `biprop status` reads, at most once in `every` seconds."""

    def __init__(self, folder: Path, every: float = 2.0) -> None:
        self._path, self._every = folder / PROGRESS, every
        self._written = -every
        self._facts: dict[str, Any] = {"process": os.getpid(), "machine": socket.gethostname()}

    def write(
        self,
        status: str,
        facts: Mapping[str, Any] = MappingProxyType({}),
        at_once: bool = False,
    ) -> None:
        """Record the status, in words, and the facts that changed.

        `at_once`: write the file even if it was just written.
        """
        self._facts |= {"state": status, **facts}
        if at_once or time.monotonic() - self._written >= self._every:
            self._written = time.monotonic()
            record = {**self._facts, "written": time.time()}
            write_text_atomically(self._path, json.dumps(record, indent=1) + "\n")


def has_final_status(folder: Path) -> bool:
    """Whether the process that writes to the folder has recorded there why it ends."""
    return str(read_object(folder / PROGRESS).get("state", "")).startswith(FINAL_STATUSES)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if the file is missing, damaged or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def writer_of(progress: Mapping[str, Any]) -> str:
    """The process that writes to a run folder, in words, from its progress.json."""
    process, machine = progress.get("process", "?"), progress.get("machine", "an unknown machine")
    return f"process {process} on {machine}"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics.jsonl, each an object with an "epoch"; none if the file is
    missing.

    A power cut can leave half a line or NUL bytes: such lines are skipped.
    """
    if not path.is_file():
        return []
    metrics = []
    for text in path.read_bytes().split(b"\n")[:-1]:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and type(line.get("epoch")) is int:
            metrics.append(line)
    return metrics


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a path names: itself, or the best one of a run folder.

    Raises:
        UserError: a folder that is no run folder.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    best = path / CHECKPOINTS / BEST
    if not best.is_file():
        raise UserError(f"{path}: not a run folder: it has no {CHECKPOINTS}/{BEST}")
    return best


def notes_on(path: str | Path) -> list[str]:
    """A line for the user where a path names a run and later runs of the same name lie in its
    subfolders, which are not read.
    """
    later = [folder for folder in _numbered(Path(path)) if newest_checkpoint(folder)]
    if not later:
        return []
    runs = "a later run" if len(later) == 1 else f"{len(later)} later runs"
    return [f"{path}: the first run of this name; has {runs}: for the last, pass {later[-1]}"]


def _numbered(first: Path) -> list[Path]:
    """The folders of the later runs in that of the first one, in the order of their numbers."""
    if not first.is_dir():
        return []
    return sorted(
        (path for path in first.iterdir() if path.name.isdecimal()),
        key=lambda path: int(path.name),
    )
