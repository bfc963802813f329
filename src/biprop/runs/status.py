"""What `biprop status` shows of a run folder."""

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
from ..config import Config
from ..errors import UserError
from ..errors import one_line
from ..files import remove_unfinished
from ..files import replace_text
from ..files import sync_folder

from .folder import LOGS
from .folder import METRICS
from .folder import PROGRESS
from .folder import RESULT
from .folder import SETTINGS
from .folder import END_STATES
from .folder import is_held
from .folder import writer_of
from .folder import newest_checkpoint
from .folder import read_metrics
from .folder import read_object


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
        step = (
            f", step {progress['batch']:,} of {progress['batches']:,}"
            if progress.get("batch")
            else ""
        )
        rows.append(("epochs done", f"{progress['epoch']} of {progress['epochs']}{step}"))
    lines = [line for line in read_metrics(folder / LOGS / METRICS) if line.keys() >= _SHOWN]
    if lines:
        last = lines[-1]
        accuracies = f"train {last['train/top1']:.2f} %, validation {last['validation/top1']:.2f} %"
        rows.append(
            ("last whole epoch", f"{last['epoch']}: loss {last['train/loss']:.3f}, {accuracies}")
        )
    if progress.get("best_epoch"):
        rows.append(
            (
                "best epoch",
                f"{progress['best_epoch']}: validation {progress['best_validation']:.2f} %",
            )
        )
    if result:
        rows.append(
            (
                "test accuracy",
                f"{100 * result['test']['right'] / max(1, result['test']['images']):.2f} %",
            )
        )
    elif "seconds_per_step" in progress:
        speed = f"{progress['seconds_per_step']:.3g} s a step, {progress['images_per_second']:,.0f} images/s"
        rows.append(("speed", speed))
        rows.append(("time left", in_words(progress["seconds_left"])))
    if "memory" in progress:
        rows.append(("memory, at most", f"{progress['memory'] / 2**20:,.0f} MiB"))
    if checkpoint:
        rows.append(
            (
                "checkpoint",
                f"{checkpoint.relative_to(folder)}, written {_ago(checkpoint.stat().st_mtime)}",
            )
        )
    return rows


def _state(
    folder: Path, progress: dict[str, Any], is_complete: bool, checkpoint: Path | None
) -> str:
    said, written = progress.get("state", ""), progress.get("written")
    when = f", {_ago(written)}" if written else ""
    if is_held(folder, progress):
        return f"{said or 'begins'} ({writer_of(progress)}{when})"
    if is_complete:
        return "complete"
    how_to_go_on = (
        f"; go on with: biprop find --resume {folder}" if checkpoint else "; it left no checkpoint"
    )
    if said.startswith(END_STATES):
        return f"{said}{when}{how_to_go_on}"
    return f"dead: {writer_of(progress)} wrote last{when or ' nothing'}, and ended without a word{how_to_go_on}"


_SHOWN = {"epoch", "train/loss", "train/top1", "validation/top1"}
"""Of a line of metrics.jsonl, what `status` shows."""


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
