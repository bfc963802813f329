"""The state of a search: what a checkpoint holds besides the network and the optimizer."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import checkpoint
from ..config import Config
from ..evaluation.counts import Counts
from .outcome import Best

MOST_STEPS = 2**62
BATCH_OPTIONS = ("seed", "batch_size", "low_data", "one_batch")
"""Options that decide which images a batch of an epoch consists of."""


@dataclass
class SearchState:
    """How far a search is, and what it has reached.

    No generator has a state that would have to be held here: the order of the images, crops and
    augmentation follow from (seed, epoch, batch).

    Attributes:
        epoch: epochs done.
        batch: batches done of the next epoch.
        step: optimizer steps done, in all epochs together.
        train: training counts of the batches done of the next epoch, of this process only.
        best: the best epoch so far.
        best_train: training counts of the epoch with the highest training accuracy.
        random_scores: test counts with random scores, measured before the search.
        baseline_is_due: whether `random_scores` is still to be measured.
        seconds: that the search has taken up to its last whole epoch, without interruptions.
        progress: with a budget of time, the share of it that was used when the search last looked
            at the clock, between two steps, in [0, 1]; the schedules follow it.
        reported: `progress` at the last epoch that was validated.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    train: Counts = field(default_factory=Counts)
    best: Best = field(default_factory=Best)
    best_train: Counts = field(default_factory=Counts)
    random_scores: Counts | None = None
    baseline_is_due: bool = False
    seconds: float = 0.0
    progress: float = 0.0
    reported: float = 0.0
    _started: float | None = field(default=None, init=False, repr=False, compare=False)

    def start_clock(self) -> None:
        """Begin to count `elapsed`, from `seconds` on."""
        self._started = time.monotonic() - self.seconds

    @property
    def elapsed(self) -> float:
        """Seconds that the search has taken up to now, without interruptions."""
        return self.seconds if self._started is None else time.monotonic() - self._started

    def to_checkpoint(self, train: Counts) -> dict[str, Any]:
        """The entries of a checkpoint's field "biprop" that hold this state.

        `train`: training counts of the epoch so far, or of the one that has ended, summed over all
        processes.
        """
        return {
            "step": self.step,
            "batch": self.batch,
            "train": asdict(train),
            "random_scores": asdict(self.random_scores) if self.random_scores else None,
            "baseline_is_due": self.baseline_is_due,
            "seconds": self.elapsed,
            "progress": self.progress,
            "reported": self.reported,
            "best_epoch": self.best.epoch,
            "best_validation": asdict(self.best.validation),
            "best_train": asdict(self.best_train),
        }

    @classmethod
    def from_checkpoint(
        cls, content: checkpoint.Content, config: Config, batches: int
    ) -> SearchState:
        """The state that a search of this program continues from.

        Args:
            content: a checkpoint whose field "biprop" is there.
            config: options of the search that continues.
            batches: batches of one of its epochs.

        Raises:
            KeyError, ValueError, TypeError: the checkpoint is damaged: a value is missing, or
                outside its range.
        """
        assert content.ours is not None
        fields = content.ours
        state = cls(epoch=max(config.start_epoch, content.epoch))
        state.step = checkpoint.whole(fields["step"], 0, MOST_STEPS)
        state.seconds = _duration(fields)
        state.progress = _progress(fields, content.config, config, state.seconds)
        state.reported = min(state.progress, float(fields.get("reported", 0.0)))
        state._restore_counts(fields)
        state.baseline_is_due = config.baseline and fields.get("baseline_is_due", False)
        if _has_the_same_batches(content.config, config):
            batch = checkpoint.whole(fields.get("batch", 0), 0, batches)
            state.batch = batch if state.epoch == content.epoch else 0
        if state.batch:
            state.train = Counts.of(fields["train"])
        return state

    def _restore_counts(self, fields: Mapping[str, Any]) -> None:
        best_epoch = checkpoint.whole(fields["best_epoch"], 0, self.epoch)
        self.best = Best(best_epoch, Counts.of(fields["best_validation"]))
        self.best_train = Counts.of(fields["best_train"])
        if fields.get("random_scores"):
            self.random_scores = Counts.of(fields["random_scores"])

    def start_next_epoch(self) -> None:
        """Count the epoch whose batches are done, and the time until now."""
        self.epoch, self.batch, self.train = self.epoch + 1, 0, Counts()
        self.seconds = self.elapsed


def _duration(fields: Mapping[str, Any]) -> float:
    """Seconds recorded in a checkpoint; 0 where the value is negative or not finite."""
    seconds = float(fields.get("seconds", 0.0))
    return seconds if math.isfinite(seconds) and seconds >= 0 else 0.0


def _progress(fields: Mapping[str, Any], before: Config, now: Config, seconds: float) -> float:
    """The share of the budget of time, if there is one, that the search has used.

    As recorded, so that its schedules continue exactly there; if the budget was changed, or is new,
    the share of it that the `seconds` so far are.
    """
    if now.minutes is None:
        return 0.0
    if now.minutes != before.minutes:
        return min(1.0, seconds / (60 * now.minutes))
    progress = float(fields["progress"])
    if not 0 <= progress <= 1:
        raise ValueError(f"progress = {progress}: not between 0 and 1")
    return progress


def _has_the_same_batches(before: Config, now: Config) -> bool:
    """Whether the batches of an epoch consist of the same images; otherwise a search that was
    stopped within an epoch begins that epoch again.
    """
    return all(getattr(before, name) == getattr(now, name) for name in BATCH_OPTIONS)
