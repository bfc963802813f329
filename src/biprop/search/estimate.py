"""How long a search will take and how much memory, from a few steps of it. Writes no file."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..config import Config
from ..console import Console
from ..distributed import detect
from ..errors import UserError
from ..evaluation.counts import evaluate
from ..evaluation.device import evaluation_batch
from .baseline import BASELINE_IMAGES
from .budget import REPORTS
from .loop import Search
from .sweep import Cell, Loader

WARM_UP_STEPS = 2
"""Steps that are not timed: the first ones allocate memory, and compile with --compile."""
TIMED_STEPS = 10
ENOUGH_SECONDS = 10.0
"""No further step is timed, or taken to warm up, once these took so long."""
EVALUATED_BATCHES = 3


@dataclass(frozen=True)
class Estimate:
    """What a search will take.

    Attributes:
        batches: of an epoch.
        epochs: still to do; with a budget of time, as many as fit.
        step: seconds, the median of `timed` steps.
        timed: number of timed steps.
        image: seconds to evaluate an image.
        teaching: seconds of the teacher's pass over plain training images; 0 without.
        training, validation: seconds of all epochs together.
        testing: seconds of the baseline and of the test images at the end.
        memory: peak of this process up to now, in bytes; None where the system does not tell.
        device_memory: peak on the GPU, in bytes; None on the CPU.
    """

    batches: int
    epochs: int
    step: float
    timed: int
    image: float
    teaching: float
    training: float
    validation: float
    testing: float
    memory: int | None
    device_memory: int | None

    @property
    def steps(self) -> int:
        """Optimizer steps still to do."""
        return self.epochs * self.batches

    @property
    def seconds(self) -> float:
        """The whole, without the time that checkpoints take to write."""
        return self.teaching + self.training + self.validation + self.testing


def check_alone() -> None:
    """Raise UserError in one of several processes: steps are timed in a single one."""
    if detect().size > 1:
        raise UserError("--dry-run: is for a single process: start it without torchrun, srun, ...")


def estimate(search: Search) -> Estimate:
    """Time a few steps of a search, and compute what the whole will take.

    The search is used up: scores, optimizer and counts have changed. Nothing is written.

    Raises:
        UserError: the loss or a score is not finite already.
    """
    on_gpu = search.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(search.device)
    epochs_left = max(0, search.budget.epochs - search.state.epoch)
    teaching = _seconds_of_teacher(search)
    steps = _step_times(search)
    step, image = statistics.median(steps), _seconds_per_image(search)
    of_training = step * search.batches
    of_validation = image * len(search.data.validation)
    reports = epochs_left
    if search.budget.seconds is not None:
        left = search.budget.seconds_left(search.state, step) - teaching
        epochs_left, reports = _fitting(left, of_training, of_validation)
    return Estimate(
        batches=search.batches,
        epochs=epochs_left,
        step=step,
        timed=len(steps),
        image=image,
        teaching=teaching,
        training=epochs_left * of_training,
        validation=reports * of_validation,
        testing=image * _test_images(search),
        memory=peak_memory(),
        device_memory=torch.cuda.max_memory_allocated(search.device) if on_gpu else None,
    )


def _seconds_of_teacher(search: Search) -> float:
    """Of a pass over all plain images, which the steps that are timed need, too."""
    if not search.lessons.asks_teacher_once:
        return 0.0
    start = time.perf_counter()
    search.lessons.all_predictions()
    return time.perf_counter() - start


def _step_times(search: Search) -> list[float]:
    """Seconds of each timed step, the loading of its batch included."""
    steps = _timed(search, search.training_steps())
    try:
        _some(steps, WARM_UP_STEPS)
        return _some(steps, TIMED_STEPS)
    except FloatingPointError as e:
        where = f"step {search.state.step + 1}"
        raise UserError(f"the search diverges: {where}: {e}; pass a smaller --lr") from None


def _timed(search: Search, steps: Iterator[Any]) -> Iterator[float]:
    """Seconds of each step, until the device has done it."""
    while True:
        start = time.perf_counter()
        next(steps)
        if search.device.type == "cuda":
            torch.cuda.synchronize(search.device)
        yield time.perf_counter() - start


def _some(durations: Iterator[float], most: int) -> list[float]:
    """The first `most` durations, fewer if these take `ENOUGH_SECONDS`; at least one."""
    taken: list[float] = []
    while len(taken) < most and sum(taken) < ENOUGH_SECONDS:
        taken.append(next(durations))
    return taken


def _seconds_per_image(search: Search) -> float:
    """Of evaluation: that of the fastest of a few batches, the loading included."""
    size = evaluation_batch(search.task)
    batches = search.data.evaluation_batches(search.data.validation, size)
    durations = []
    for _ in range(EVALUATED_BATCHES):
        start = time.perf_counter()
        batch = list(itertools.islice(batches, 1))
        if not batch:
            break
        counts = evaluate(search.model, batch, search.is_in_channels_last)
        durations.append((time.perf_counter() - start) / counts.images)
    return min(durations)


def _fitting(seconds: float, of_training: float, of_validation: float) -> tuple[int, int]:
    """The epochs that fit into the time, and how many of them are validated: `budget.REPORTS` at
    most.
    """
    all_validated = seconds / (of_training + of_validation)
    if all_validated <= REPORTS:
        epochs = max(1, round(all_validated))
        return epochs, epochs
    return max(REPORTS, round((seconds - REPORTS * of_validation) / of_training)), REPORTS


def _test_images(search: Search) -> int:
    """Images evaluated before and after the epochs."""
    images = len(search.data.test)
    is_baseline_due = search.state.baseline_is_due
    return images + (min(images, BASELINE_IMAGES) if is_baseline_due else 0)


def peak_memory() -> int | None:
    """The most memory that this process has occupied so far, in bytes; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


# ---- sweeps ----

_SAME_TIME = ("name", "seed", "prune_rate", "lr", "momentum", "weight_decay")
"""Options that change nothing of a step's time: of cells that differ in them, one is timed."""


def estimate_cells(cells: Sequence[Cell], console: Console) -> Iterator[tuple[Cell, Estimate]]:
    """An estimate for each cell of a sweep, in order.

    Raises:
        UserError: data or options do not work.
    """
    loader = Loader(cells)
    known: dict[Any, Estimate] = {}
    for cell in cells:
        key = _without_what_changes_no_time(cell.config)
        if key not in known:
            data = loader.load(cell.config, console)
            known[key] = estimate(Search(cell.config, cell.config_name, data, console))
        yield cell, known[key]


def _without_what_changes_no_time(config: Config) -> str:
    values = dataclasses.asdict(config)
    return repr({name: value for name, value in values.items() if name not in _SAME_TIME})
