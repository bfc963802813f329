"""Who is kept: exact selection by score, in one layer or over the whole network, and the density
schedule.

The rule (ICLR 2021 paper, section 3; exact to the weight): sort |scores| in ascending order; the
first int((1 - k) * n) are pruned, computed in double precision; the rest is kept. Ties are broken
by index: among equal |scores| the earlier weight goes first. In global scope the order is that of
the concatenated layers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import native
from ..errors import UserError
from .binarize import addressable

SHIFT = 18
BINS = 1 << (31 - SHIFT)  # of |score|, by the 13 highest of its 31 bits
INFINITE = 0x7F800000
NOT_FINITE = "a score is infinite or not a number"


def kept_count(weights: int, density: float) -> int:
    """How many of `weights` are kept at `density` (0 < density <= 1): at least 1."""
    return max(1, weights - int((1 - density) * weights))


def floor_count(weights: int, floor: float) -> int:
    """How many weights a layer keeps in any case under global scope: the fraction `floor` of them,
    at least 1.
    """
    return max(1, int(floor * weights))


def check_floors(kept: int, floors: Sequence[int]) -> None:
    """Raise UserError unless `kept` weights suffice for the layers' floors."""
    if sum(floors) > kept:
        lower = (
            "lower the floor or " if max(floors) > 1 else ""
        )  # each layer keeps one weight in any case
        raise UserError(
            f"the floors of the layers add up to {sum(floors)} weights, more than the {kept} to"
            f" keep: {lower}raise the density"
        )


class Ranking:
    """What is remembered of one ranking from step to step: its threshold moves little, so only
    |scores| near it need a close look. It saves work and changes no result. A window is two |scores|, as integers of 31 bits, which have the order of the
    floats.
    """

    NARROWEST, WIDEST = 1 << 12, 1 << 19  # of 2^23 between a number and its double

    def __init__(self) -> None:
        self._threshold: int | None = None
        self._reach = self.WIDEST

    def window(self) -> tuple[int, int] | None:
        """Where the threshold should be now; None before the first step."""
        if self._threshold is None:
            return None
        return max(0, self._threshold - self._reach), min(
            INFINITE - 1, self._threshold + self._reach
        )

    def learn(self, threshold: int) -> None:
        """Remember the threshold of this step, and how far it moved."""
        if self._threshold is not None:
            self._reach = min(
                max(4 * abs(threshold - self._threshold), self.NARROWEST), self.WIDEST
            )
        self._threshold = threshold


def keep_top(scores: Tensor, kept: int) -> Tensor:
    """Mask of the `kept` largest |scores|.

    Args:
        scores: float tensor of any shape.
        kept: 0 <= kept <= scores.numel().

    Returns:
        Bool tensor of the same shape with exactly `kept` ones.

    Raises:
        FloatingPointError: a score is infinite or not a number.
    """
    (mask,) = keep_top_of_each([scores], [kept])
    return mask


def keep_top_of_each(
    scores: Sequence[Tensor], kept: Sequence[int], rankings: Sequence[Ranking] | None = None
) -> list[Tensor]:
    """`keep_top` of several tensors, each for itself; `rankings` remember them from step to step."""
    rankings = rankings or [Ranking() for _ in scores]
    if core := _core(scores):
        return [
            _keep_top_by_core(core, [s], k, r)[0]
            for s, k, r in zip(scores, kept, rankings, strict=True)
        ]
    _check_finite(scores)
    return [
        _keep_top_flat(s.detach().flatten(), k).view(s.shape)
        for s, k in zip(scores, kept, strict=True)
    ]


def keep_top_of_all(
    scores: Sequence[Tensor], kept: int, ranking: Ranking | None = None
) -> list[Tensor]:
    """`keep_top` over several tensors as if they were one, concatenated: one mask for each."""
    if core := _core(scores):
        return _keep_top_by_core(core, scores, kept, ranking or Ranking())
    _check_finite(scores)
    parts = _keep_top_flat(torch.cat([s.detach().flatten() for s in scores]), kept).split(
        [s.numel() for s in scores]
    )
    return [part.view(s.shape) for part, s in zip(parts, scores, strict=True)]


def keep_top_traced(scores: Tensor, kept: int) -> Tensor:
    """`keep_top` by tensor operations alone, for tracers and transforms, in which no number can be
    looked at.

    Scores that are infinite or not a number are not refused here: whoever calls sees to them.
    """
    return _keep_top_flat(scores.detach().flatten(), kept).view(scores.shape)


def _core(scores: Sequence[Tensor]) -> ctypes.CDLL | None:
    """The compiled core, if it can rank these."""
    ranked = all(
        s.device.type == "cpu" and s.dtype == torch.float32 and addressable(s) for s in scores
    )
    return native.library() if ranked else None


def _check_finite(scores: Sequence[Tensor]) -> None:
    # One answer for all: on a GPU every question waits for what was started before.
    largest = [s.detach().abs().amax() for s in scores if s.numel()]
    if largest and not torch.isfinite(torch.stack(largest)).all():
        raise FloatingPointError(NOT_FINITE)


@dataclass
class _Choice:
    """Flat masks of who is above a window, and the places of who is in it (None: too many for the
    room).
    """

    masks: list[NDArray[np.bool_]]
    above: int
    places: list[NDArray[np.int64]] | None

    @property
    def inside(self) -> int:
        return sum(len(places) for places in self.places) if self.places is not None else 0


def _keep_top_by_core(
    core: ctypes.CDLL, scores: Sequence[Tensor], kept: int, ranking: Ranking
) -> list[Tensor]:
    # Tensors, and not numpy views of them: a storage that numpy has seen cannot be resized any
    # more, which FSDP does.
    flats = [s.detach().contiguous().view(-1) for s in scores]
    choice = None
    if window := ranking.window():
        choice = _choose(core, flats, window, native.WEIGHTS // 16)
        if choice.places is None or not choice.above < kept <= choice.above + choice.inside:
            choice = None
    if choice is None:
        if not any(len(flat) for flat in flats):
            return [torch.zeros_like(s, dtype=torch.bool) for s in scores]
        choice = _choose(core, flats, *_window_by_counting(core, flats, max(1, kept)))
    assert choice.places is not None
    places = map(torch.from_numpy, choice.places)
    candidates = torch.cat(
        [flat.index_select(0, these) for flat, these in zip(flats, places, strict=True)]
    )
    chosen = _keep_top_flat(candidates, kept - choice.above).numpy()
    if chosen.any():
        ranking.learn(int(np.abs(candidates.numpy()[chosen]).min().view(np.uint32)))
    at = 0
    for mask, these in zip(choice.masks, choice.places, strict=True):
        mask[these[chosen[at : at + len(these)]]] = True
        at += len(these)
    return [
        torch.from_numpy(mask).view(s.shape) for mask, s in zip(choice.masks, scores, strict=True)
    ]


def _choose(
    core: ctypes.CDLL, flats: Sequence[Tensor], window: tuple[int, int], room: int
) -> _Choice:
    """One pass over all scores. `room`: how many of a part may be in the window."""
    threads, grain = torch.get_num_threads(), native.WEIGHTS
    choice = _Choice([], 0, [])
    for flat in flats:
        parts = -(-len(flat) // grain)
        mask, places = np.empty(len(flat), dtype=np.bool_), np.empty((parts, room), dtype=np.int64)
        tallies = np.zeros((parts, 3), dtype=np.int64)  # above, inside, not finite
        native.run(
            core.biprop_choose, [flat.data_ptr(), mask.ctypes.data], len(flat), threads,
            sizes=[grain, *window, ctypes.c_int64(room)], arrays=[tallies, places], grain=grain,
        )  # fmt: skip
        if tallies[:, 2].any():
            raise FloatingPointError(NOT_FINITE)
        choice.masks.append(mask)
        choice.above += int(tallies[:, 0].sum())
        if (tallies[:, 1] > room).any():
            choice.places = None
        elif choice.places is not None:
            choice.places.append(places[np.arange(room) < tallies[:, 1:2]])
    return choice


def _window_by_counting(
    core: ctypes.CDLL, flats: Sequence[Tensor], kept: int
) -> tuple[tuple[int, int], int]:
    """The bin of |scores| in which the kept-th largest is, as a window, and the most that a part
    has in it.
    """
    threads, grain = torch.get_num_threads(), native.WEIGHTS
    histograms = [np.zeros((-(-len(flat) // grain), BINS), dtype=np.uint32) for flat in flats]
    for flat, histogram in zip(flats, histograms, strict=True):
        addresses = [flat.data_ptr(), histogram.ctypes.data]
        native.run(core.biprop_histogram, addresses, len(flat), threads, sizes=[grain], grain=grain)
    counts = np.concatenate(histograms)
    at_least = counts.sum(0, dtype=np.int64)[::-1].cumsum()[
        ::-1
    ]  # how many are in a bin or above it
    bin_ = int(np.flatnonzero(at_least >= kept)[-1])
    return (bin_ << SHIFT, ((bin_ + 1) << SHIFT) - 1), int(counts[:, bin_].max())


def _keep_top_flat(scores: Tensor, kept: int) -> Tensor:
    """`keep_top` of a flat tensor of finite scores.

    Off the CPU nothing here waits for the device.
    """
    count = len(scores)
    assert 0 <= kept <= count, (kept, count)
    if kept in (0, count):
        return torch.full_like(scores, kept > 0, dtype=torch.bool)
    magnitudes = scores.abs()
    threshold = _smallest_kept(magnitudes, kept)
    mask = magnitudes > threshold
    equal = magnitudes == threshold  # of several that equal the threshold the last are kept
    place = equal.cumsum(0)
    return mask | equal & (place > place[-1] - (kept - mask.sum()))


def _smallest_kept(magnitudes: Tensor, kept: int) -> Tensor:
    """The kept-th largest of a flat tensor, as a scalar tensor."""
    pruned = len(magnitudes) - kept
    floats = magnitudes.dtype in (torch.float32, torch.float64)
    if magnitudes.device.type == "cpu" and floats and addressable(magnitudes):
        # numpy partitions with vector instructions: 7 ms for 2.4 M floats where kthvalue takes 49
        # and a sort 375 (one core).
        return torch.from_numpy(np.partition(magnitudes.numpy(), pruned)[pruned : pruned + 1])[0]
    # Not kthvalue: on a GPU it gives a whole layer to one block of threads, topk many blocks.
    if kept <= pruned:
        return magnitudes.topk(kept, sorted=False).values.amin()
    return magnitudes.topk(pruned + 1, largest=False, sorted=False).values.amax()


def keep_top_global(
    scores: Sequence[Tensor], kept: int, floors: Sequence[int], ranking: Ranking | None = None
) -> list[Tensor]:
    """Masks of the `kept` largest |scores| of all layers together, where layer i keeps at least
    `floors[i]`.

    A layer below its floor is given its own top `floors[i]`, and the others share what remains, so
    that exactly `kept` are kept in all. Without a floor a layer can lose all its weights, and the
    network its signal (the original research code divides 0 by 0 there and turns into NaN).
    `ranking` remembers the common ranking from step to step.

    Returns:
        Bool tensors of the shapes of `scores`.

    Raises:
        FloatingPointError: a score is infinite or not a number.
        UserError: the floors add up to more than `kept`.
    """
    check_floors(kept, floors)
    masks: dict[int, Tensor] = {}
    free = list(range(len(scores)))
    while free:
        parts = keep_top_of_all(
            [scores[i] for i in free], kept - sum(floors[i] for i in masks), ranking
        )
        counts = torch.stack([part.count_nonzero() for part in parts]).tolist()
        poor = [i for i, count in zip(free, counts, strict=True) if count < floors[i]]
        if not poor:
            masks |= dict(zip(free, parts, strict=True))
            break
        # Taking weights from the others raises their threshold, so the check is repeated on them.
        masks |= {i: keep_top(scores[i], floors[i]) for i in poor}
        free = [i for i in free if i not in masks]
    return [masks[i] for i in range(len(scores))]
