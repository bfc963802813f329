"""The folder of a run: what lies in it, who writes to it, and how a run is found again."""

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
from ..errors import UserError, one_line
from ..files import remove_unfinished, replace_text, sync_folder

CHECKPOINTS, LOGS = "checkpoints", "logs"
INITIAL, LAST, BEST = "initial.state", "epoch_most_recent.state", "model_best.pth"
"""In checkpoints/: before the first step, the newest, and the best epoch."""
SETTINGS, LAYERS, PROGRESS, RESULT = "settings.txt", "layers.json", "progress.json", "result.json"
"""Options; what each layer keeps; where the run is (written every few seconds); accuracies (written
last of all).
"""
ROW = "results_row.json"
"""The run's row of results.csv, written before it is appended there: a run that is killed after
that and goes on has the same row again, which the table then has already.
"""
METRICS = "metrics.jsonl"
_LOCK = ".running"
END_STATES = ("stopped", "failed")
"""How the state begins in which a run says why it ends before its time."""

_OF_THE_MACHINE = options.with_roles(
    options.Role.DATA_PATH,
    options.Role.DATA_WORKERS,
    options.Role.OUTPUT_PATH,
    options.Role.MACHINE,
)
"""Options in which two starts of one run may differ."""


def _place(config: Config, config_name: str) -> Path:
    parent = Path(config.log_dir) / config_name
    if config.width_mult != 1:
        parent /= f"width_mult={config.width_mult:g}"
    return (
        parent
        / f"prune-rate={'none' if config.prune_rate is None else format(config.prune_rate, 'g')}"
        / config.name
    )


def make(config: Config, config_name: str, take_over: bool = False) -> Path:
    """A new folder <log_dir>/<config>/prune-rate=<k>/<name>, or /0, /1, ... below it; with
    checkpoints/, logs/, settings.txt.

    `take_over`: or the folder of a run of these options that was killed before its first
    checkpoint.

    Raises:
        UserError: it cannot be made or written to.
    """
    first = folder = _place(config, config_name)
    number = 0
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir()
                break
            except FileExistsError:
                if take_over and _has_only_begun(folder, config):
                    break
                folder, number = first / str(number), number + 1
        (folder / CHECKPOINTS).mkdir(exist_ok=take_over)
        (folder / LOGS).mkdir(exist_ok=take_over)
        sync_folder(folder.parent)
        versions = f"# biprop {__version__}, torch {metadata.version('torch')}, {datetime.now().isoformat(timespec='seconds')}\n"
        replace_text(folder / SETTINGS, versions + options.as_yaml(config))
    except OSError as e:
        raise UserError(
            f"--log-dir {config.log_dir}: cannot write the run folder: {e.strerror}: {e.filename}"
        ) from None
    return folder


def newest(config: Config, config_name: str) -> Path | None:
    """The folder of the last run that was started with these options and got as far as a
    checkpoint; None if there is none.

    By number, not by time: clocks of several machines differ, and can be set back.
    """
    first = _place(config, config_name)
    below = (
        sorted((p for p in first.glob("*") if p.name.isdigit()), key=lambda p: int(p.name))
        if first.is_dir()
        else []
    )
    for folder in reversed([first, *below]):
        if newest_checkpoint(folder) and _is_of(folder, config):
            return folder
    return None


def _has_only_begun(folder: Path, config: Config) -> bool:
    """Whether a run of these options was killed here before its first checkpoint."""
    if newest_checkpoint(folder) or not _is_of(folder, config):
        return False
    return not is_held(folder, read_object(folder / PROGRESS))


def _is_of(folder: Path, config: Config) -> bool:
    """Whether it is the folder of a run with these options, but for those of the machine."""
    if not (folder / SETTINGS).is_file():
        return False
    try:
        settings = options.read_file(folder / SETTINGS)
    except UserError:  # of another version of this program: not the same options
        return False
    theirs = {**options.as_dict(Config()), **settings}
    return _essence(theirs) == _essence(options.as_dict(config))


def _essence(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _OF_THE_MACHINE}


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that a run goes on from."""
    return next(
        (p for p in (folder / CHECKPOINTS / LAST, folder / CHECKPOINTS / INITIAL) if p.is_file()),
        None,
    )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """While the block runs, this process alone writes to the run folder; what a killed one left
    half-written goes away.

    Raises:
        UserError: another process writes to it, or it cannot be written to.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK, timeout=1)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder}: another process runs this search ({writer_of(read_object(folder / PROGRESS))})"
        ) from None
    except OSError as e:
        raise UserError(f"{folder}: cannot be written: {e.strerror}") from None
    try:
        remove_unfinished(folder)
        remove_unfinished(folder / CHECKPOINTS)
        yield
    finally:
        lock.release()


def is_held(folder: Path, progress: Mapping[str, Any]) -> bool:
    """Whether a process writes to the run folder, which this one perhaps cannot write to."""
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
        return _lives(progress)


def _is_locked(lock: Path) -> bool:
    from filelock import FileLock, Timeout

    try:
        with FileLock(lock, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _lives(progress: Mapping[str, Any]) -> bool:
    """Whether the process of a run still exists; of one on another machine nothing is known."""
    if progress.get("machine") != socket.gethostname():
        return False
    try:
        os.kill(int(progress["process"]), 0)
    except PermissionError:
        return True
    except (KeyError, TypeError, ValueError, OSError, OverflowError):
        return False
    return True


class Progress:
    """Tells in progress.json how far a run is, at most every `every` seconds, for `biprop status`."""

    def __init__(self, folder: Path, every: float = 2.0) -> None:
        self._path, self._every, self._told = folder / PROGRESS, every, -every
        self._facts: dict[str, Any] = {"process": os.getpid(), "machine": socket.gethostname()}

    def tell(
        self, state: str, facts: Mapping[str, Any] = MappingProxyType({}), at_once: bool = False
    ) -> None:
        """Say what it does (`state`, in words) and the facts that changed."""
        self._facts |= {"state": state, **facts}
        if at_once or time.monotonic() - self._told >= self._every:
            self._told = time.monotonic()
            replace_text(
                self._path, json.dumps({**self._facts, "written": time.time()}, indent=1) + "\n"
            )


def has_told_its_end(folder: Path) -> bool:
    """Whether the process that writes to the folder has said there why it ends."""
    return str(read_object(folder / PROGRESS).get("state", "")).startswith(END_STATES)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, or nothing where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def writer_of(progress: dict[str, Any]) -> str:
    return (
        f"process {progress.get('process', '?')} on {progress.get('machine', 'an unknown machine')}"
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl, each with an "epoch"; none if there is no such file.

    A power cut can leave half a line or NUL bytes: what is no such line is passed over.
    """
    if not path.is_file():
        return []
    lines = []
    for text in path.read_bytes().split(b"\n")[:-1]:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and type(line.get("epoch")) is int:
            lines.append(line)
    return lines


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a path means: itself, or the best one of a run folder.

    Raises:
        UserError: neither.
    """
    path = Path(path)
    best = path / CHECKPOINTS / BEST
    if path.is_dir() and not best.is_file():
        raise UserError(f"{path}: no run folder: it has no {CHECKPOINTS}/{BEST}")
    return best if path.is_dir() else path
