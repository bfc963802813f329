"""The folder of a run: what lies in it, who writes to it, how a run is found again, and how it is doing."""

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

from . import __version__
from . import config as options
from .config import Config
from .errors import UserError, one_line
from .files import remove_unfinished, replace_text, sync_folder

CHECKPOINTS, LOGS = "checkpoints", "logs"
INITIAL, LAST, BEST = "initial.state", "epoch_most_recent.state", "model_best.pth"
"""In checkpoints/: before the first step, the newest, and the best epoch."""
SETTINGS, LAYERS, PROGRESS, RESULT = "settings.txt", "layers.json", "progress.json", "result.json"
"""Options; what each layer keeps; where the run is (written every few seconds); accuracies (written last of all)."""
ROW = "results_row.json"
"""The run's row of results.csv, written before it is appended there: a run that is killed after that
and goes on has the same row again, which the table then has already."""
METRICS = "metrics.jsonl"
_LOCK = ".running"
_ENDS = ("stopped", "failed")
"""How the state begins in which a run says why it ends before its time."""

_OF_THE_MACHINE = (
    "data", "workers", "log_dir", "results", "histograms", "device", "print_freq", "save_every", "save_minutes", "baseline",
)  # fmt: skip
"""Options in which two starts of one run may differ."""


def results_file(config: Config) -> Path:
    """The table that a run is appended to."""
    if config.results is None:
        return Path(config.log_dir) / "results.csv"
    path = Path(config.results)
    return path if path.suffix == ".csv" else path / "results.csv"


def _place(config: Config, config_name: str) -> Path:
    parent = Path(config.log_dir) / config_name
    if config.width_mult != 1:
        parent /= f"width_mult={config.width_mult:g}"
    return parent / f"prune-rate={'none' if config.prune_rate is None else format(config.prune_rate, 'g')}" / config.name


def make(config: Config, config_name: str, take_over: bool = False) -> Path:
    """A new folder <log_dir>/<config>/prune-rate=<k>/<name>, or /0, /1, ... below it; with checkpoints/, logs/, settings.txt.

    `take_over`: or the folder of a run of these options that was killed before its first checkpoint.

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
        raise UserError(f"--log-dir {config.log_dir}: cannot write the run folder: {e.strerror}: {e.filename}") from None
    return folder


def newest(config: Config, config_name: str) -> Path | None:
    """The folder of the last run that was started with these options and got as far as a checkpoint; None if there is none.

    By number, not by time: clocks of several machines differ, and can be set back.
    """
    first = _place(config, config_name)
    below = sorted((p for p in first.glob("*") if p.name.isdigit()), key=lambda p: int(p.name)) if first.is_dir() else []
    for folder in reversed([first, *below]):
        if newest_checkpoint(folder) and _is_of(folder, config):
            return folder
    return None


def _has_only_begun(folder: Path, config: Config) -> bool:
    """Whether a run of these options was killed here before its first checkpoint."""
    if newest_checkpoint(folder) or not _is_of(folder, config):
        return False
    return not _is_held(folder, read_object(folder / PROGRESS))


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
    return next((p for p in (folder / CHECKPOINTS / LAST, folder / CHECKPOINTS / INITIAL) if p.is_file()), None)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """While the block runs, this process alone writes to the run folder; what a killed one left half-written goes away.

    Raises:
        UserError: another process writes to it, or it cannot be written to.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK, timeout=1)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder}: another process runs this search ({_writer(read_object(folder / PROGRESS))})") from None
    except OSError as e:
        raise UserError(f"{folder}: cannot be written: {e.strerror}") from None
    try:
        remove_unfinished(folder)
        remove_unfinished(folder / CHECKPOINTS)
        yield
    finally:
        lock.release()


def _is_held(folder: Path, progress: Mapping[str, Any]) -> bool:
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

    def tell(self, state: str, facts: Mapping[str, Any] = MappingProxyType({}), at_once: bool = False) -> None:
        """Say what it does (`state`, in words) and the facts that changed."""
        self._facts |= {"state": state, **facts}
        if at_once or time.monotonic() - self._told >= self._every:
            self._told = time.monotonic()
            replace_text(self._path, json.dumps({**self._facts, "written": time.time()}, indent=1) + "\n")


def has_told_its_end(folder: Path) -> bool:
    """Whether the process that writes to the folder has said there why it ends."""
    return str(read_object(folder / PROGRESS).get("state", "")).startswith(_ENDS)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, or nothing where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _writer(progress: dict[str, Any]) -> str:
    return f"process {progress.get('process', '?')} on {progress.get('machine', 'an unknown machine')}"


def status(folder: Path) -> list[tuple[str, str]]:
    """How the run in a folder is doing, or how it ended, from its files: name and value, in words.

    Raises:
        UserError: not the folder of a run, or its files are damaged.
    """
    if not (folder / SETTINGS).is_file():
        raise UserError(f"{folder}: no run folder: it has no {SETTINGS}")
    try:
        return _status(folder)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as e:
        reason = f"{type(e).__name__}: {one_line(e)}"
        raise UserError(f"{folder}: {PROGRESS} or {RESULT} is damaged: {reason}") from None


def _status(folder: Path) -> list[tuple[str, str]]:
    progress, result = read_object(folder / PROGRESS), read_object(folder / RESULT)
    checkpoint = newest_checkpoint(folder)
    rows = [("state", _state(folder, progress, bool(result), checkpoint))]
    if "epoch" in progress:
        step = f", step {progress['batch']:,} of {progress['batches']:,}" if progress.get("batch") else ""
        rows.append(("epochs done", f"{progress['epoch']} of {progress['epochs']}{step}"))
    lines = [line for line in read_metrics(folder / LOGS / METRICS) if line.keys() >= _SHOWN]
    if lines:
        last = lines[-1]
        accuracies = f"train {last['train/top1']:.2f} %, validation {last['validation/top1']:.2f} %"
        rows.append(("last whole epoch", f"{last['epoch']}: loss {last['train/loss']:.3f}, {accuracies}"))
    if progress.get("best_epoch"):
        rows.append(("best epoch", f"{progress['best_epoch']}: validation {progress['best_validation']:.2f} %"))
    if result:
        rows.append(("test accuracy", f"{100 * result['test']['right'] / max(1, result['test']['images']):.2f} %"))
    elif "seconds_per_step" in progress:
        speed = f"{progress['seconds_per_step']:.3g} s a step, {progress['images_per_second']:,.0f} images/s"
        rows.append(("speed", speed))
        rows.append(("time left", in_words(progress["seconds_left"])))
    if "memory" in progress:
        rows.append(("memory, at most", f"{progress['memory'] / 2**20:,.0f} MiB"))
    if checkpoint:
        rows.append(("checkpoint", f"{checkpoint.relative_to(folder)}, written {_ago(checkpoint.stat().st_mtime)}"))
    return rows


def _state(folder: Path, progress: dict[str, Any], is_complete: bool, checkpoint: Path | None) -> str:
    said, written = progress.get("state", ""), progress.get("written")
    when = f", {_ago(written)}" if written else ""
    if _is_held(folder, progress):
        return f"{said or 'begins'} ({_writer(progress)}{when})"
    if is_complete:
        return "complete"
    how_to_go_on = f"; go on with: biprop find --resume {folder}" if checkpoint else "; it left no checkpoint"
    if said.startswith(_ENDS):
        return f"{said}{when}{how_to_go_on}"
    return f"dead: {_writer(progress)} wrote last{when or ' nothing'}, and ended without a word{how_to_go_on}"


_SHOWN = {"epoch", "train/loss", "train/top1", "validation/top1"}
"""Of a line of metrics.jsonl, what `status` shows."""


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


def in_words(seconds: float) -> str:
    """A length of time: "2 h 5 min", "3 min 20 s", "4 s"."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _ago(when: float) -> str:
    """How long ago a time by the clock was; a clock that was set back since then makes that no time at all."""
    return f"{in_words(time.time() - when)} ago"
