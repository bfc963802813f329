"""How long a search goes on: for a number of epochs, or for minutes of the clock."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Config
from .state import SearchState

RAMP_SHARE = 1 / 3
"""With a budget of time, the share of it in which the density of global pruning falls; with epochs,
it is the most that the schedule takes (`subnetwork.schedule.ramp_epochs`).
"""


REPORTS = 100
"""With a budget of time, at most about so many epochs are validated, reported and saved: on few
images an epoch takes a fraction of a second.
"""


@dataclass(frozen=True)
class Budget:
    """The epochs or the time of a search.

    With a number of epochs, schedules follow from the batches done. With a time they follow the
    clock: from `SearchState.progress`, which the search sets between steps. A checkpoint records
    it, so that a search that was stopped, for however long, continues its schedule where it was.

    Attributes:
        epochs: passes over the training images; without a meaning if there are `seconds`.
        seconds: of training and validation; None: the search takes `epochs`.
        batches: of an epoch.
        save_every: epochs after which one more checkpoint is kept; -1: none is.
    """

    epochs: int
    seconds: float | None
    batches: int
    save_every: int = -1

    @classmethod
    def of(cls, config: Config, batches: int) -> Budget:
        """The budget that the options `epochs` and `minutes` give."""
        seconds = None if config.minutes is None else 60 * config.minutes
        return cls(config.epochs, seconds, batches, config.save_every)

    def share_of_time(self, state: SearchState) -> float:
        """The share of the time that the search has taken up to now, in [0, 1]."""
        assert self.seconds is not None
        return min(1.0, state.elapsed / self.seconds)

    def is_used_up(self, state: SearchState) -> bool:
        """Whether no step is left to train."""
        return state.progress >= 1 if self.is_time else state.epoch >= self.epochs

    def is_over(self, state: SearchState) -> bool:
        """Whether no step is left, and the last epoch is evaluated: a time ends within an epoch,
        and a search can be stopped before that is.
        """
        is_within_epoch = self.is_time and state.batch > 0
        return self.is_used_up(state) and not is_within_epoch

    @property
    def is_time(self) -> bool:
        """Whether it is a time, not a number of epochs."""
        return self.seconds is not None

    def is_report_due(self, state: SearchState) -> bool:
        """Whether the epoch that ends here is validated, reported and saved."""
        if not self.is_time or self.is_used_up(state):
            return True
        if self.save_every > 0 and (state.epoch + 1) % self.save_every == 0:
            return True
        return state.progress - state.reported >= 1 / REPORTS

    def seconds_left(self, state: SearchState, seconds_per_step: float) -> float:
        """How long training will still take."""
        if self.seconds is not None:
            return max(0.0, self.seconds - state.elapsed)
        batches_left = (self.epochs - state.epoch) * self.batches - state.batch
        return seconds_per_step * batches_left

    def in_words(self, epoch: int, state: SearchState) -> str:
        """For the screen: "3/90", or "3 (12.5/30 min)" with a budget of time."""
        if self.seconds is None:
            return f"{epoch:>{len(str(self.epochs))}}/{self.epochs}"
        digits = 1 if self.seconds >= 600 else 2
        return f"{epoch:>2} ({state.elapsed / 60:.{digits}f}/{self.seconds / 60:g} min)"

    @property
    def option(self) -> str:
        """What a user raises for a longer search."""
        return "--epochs" if self.seconds is None else "--minutes"
