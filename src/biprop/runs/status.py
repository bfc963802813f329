"""What `biprop status` shows of a run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, one_line
from .folder import (
    FINAL_STATUSES,
    LOGS,
    METRICS,
    PROGRESS,
    RESULT,
    SETTINGS,
    is_held,
    newest_checkpoint,
    read_metrics,
    read_object,
    writer_of,
)

Rows = list[tuple[str, str]]


def status(folder: Path) -> Rows:
    """The progress of a run, or how it ended, from its files: names and values, in words.

    Raises:
        UserError: not the folder of a run, or its files are damaged.
    """
    if not (folder / SETTINGS).is_file():
        raise UserError(f"{folder}: not a run folder: it has no {SETTINGS}")
    try:
        return _rows(folder)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as e:
        reason = f"{type(e).__name__}: {one_line(e)}"
        raise UserError(f"{folder}: {PROGRESS} or {RESULT} is damaged: {reason}") from None


def _rows(folder: Path) -> Rows:
    progress, result = read_object(folder / PROGRESS), read_object(folder / RESULT)
    checkpoint = newest_checkpoint(folder)
    return [
        ("state", _state(folder, progress, bool(result), checkpoint)),
        *_epoch_rows(folder, progress),
        *(_result_rows(result) if result else _speed_rows(progress)),
        *_memory_rows(progress),
        *_checkpoint_rows(folder, checkpoint),
    ]


def _state(
    folder: Path, progress: Mapping[str, Any], is_complete: bool, checkpoint: Path | None
) -> str:
    recorded, written = progress.get("state", ""), progress.get("written")
    writer = writer_of(progress)
    when = f", {_ago(written)}" if written else ""
    if is_held(folder, progress):
        return f"{recorded or 'begins'} ({writer}{when})"
    if is_complete:
        return "complete"
    next_step = _next_step(folder, checkpoint)
    if recorded.startswith(FINAL_STATUSES):
        return f"{recorded}{when}; {next_step}"
    last_update = f"last update {_ago(written)}" if written else "no update"
    return f"crashed: no final status recorded ({writer}, {last_update}); {next_step}"


def _next_step(folder: Path, checkpoint: Path | None) -> str:
    """What the user can do after a run has ended before its time."""
    return (
        f"continue with: biprop find --resume {folder}" if checkpoint else "it left no checkpoint"
    )


def _epoch_rows(folder: Path, progress: Mapping[str, Any]) -> Rows:
    rows = []
    measured_on = progress.get("measured_on", "validation")
    if "epoch" in progress:
        rows.append(("epochs done", _position(progress)))
    metrics = read_metrics(folder / LOGS / METRICS)
    complete = [line for line in metrics if line.keys() >= _SHOWN_METRICS]
    if complete:
        rows.append(("last whole epoch", _epoch_in_words(complete[-1], measured_on)))
    if progress.get("best_epoch"):
        accuracy = f"{measured_on} {progress['best_validation']:.2f} %"
        rows.append(("best epoch", f"{progress['best_epoch']}: {accuracy}"))
    return rows


def _position(progress: Mapping[str, Any]) -> str:
    epochs = f"{progress['epoch']} of {progress['epochs']}"
    if minutes := progress.get("minutes"):
        digits = 1 if minutes >= 10 else 2
        elapsed = f"{progress['elapsed'] / 60:.{digits}f}"
        epochs = f"{progress['epoch']}, in {elapsed} of {minutes:g} minutes"
    if not progress.get("batch"):
        return epochs
    return f"{epochs}, step {progress['batch']:,} of {progress['batches']:,}"


def _epoch_in_words(metrics: Mapping[str, Any], measured_on: str) -> str:
    train, measured = metrics["train/top1"], metrics["validation/top1"]
    accuracies = f"train {train:.2f} %, {measured_on} {measured:.2f} %"
    return f"{metrics['epoch']}: loss {metrics['train/loss']:.3f}, {accuracies}"


def _result_rows(result: Mapping[str, Any]) -> Rows:
    test = result["test"]
    return [("test accuracy", f"{100 * test['right'] / max(1, test['images']):.2f} %")]


def _speed_rows(progress: Mapping[str, Any]) -> Rows:
    if "seconds_per_step" not in progress:
        return []
    step = f"{progress['seconds_per_step']:.3g} s a step"
    return [
        ("speed", f"{step}, {progress['images_per_second']:,.0f} images/s"),
        ("time left", in_words(progress["seconds_left"])),
    ]


def _memory_rows(progress: Mapping[str, Any]) -> Rows:
    if "memory" not in progress:
        return []
    return [("memory, at most", f"{progress['memory'] / 2**20:,.0f} MiB")]


def _checkpoint_rows(folder: Path, checkpoint: Path | None) -> Rows:
    if not checkpoint:
        return []
    written = f"written {_ago(checkpoint.stat().st_mtime)}"
    return [("checkpoint", f"{checkpoint.relative_to(folder)}, {written}")]


_SHOWN_METRICS = {"epoch", "train/loss", "train/top1", "validation/top1"}
"""Entries of a line of metrics.jsonl that `status` shows."""


def in_words(seconds: float) -> str:
    """A duration in words: "2 h 5 min", "3 min 20 s", "4 s"; "0 s" where it is negative."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _ago(when: float) -> str:
    """How long ago a time of the system clock was; "0 s ago" if the clock was set back since."""
    return f"{in_words(time.time() - when)} ago"
