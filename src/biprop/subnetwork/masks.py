"""Masks: exact top-k selection by |score|, in one layer or over the whole network.

The rule (ICLR 2021 paper, section 3; exact to the weight): sort |scores| in ascending order; the
first int((1 - k) * n) weights are pruned, computed in double precision; the rest is kept. Ties are
broken by index: among equal |scores| the earlier weight is pruned first. In global scope the order
is that of the concatenated layers.
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
BINS = 1 << (31 - SHIFT)
"""Bins of the histogram of |scores|: by the 13 highest of the 31 bits of a float32 without sign."""
INFINITE = 0x7F800000
"""The bits of float32's infinity."""
NOT_FINITE = "a score is infinite or not a number"

Window = tuple[int, int]
"""The lowest and highest |score| of a range, as the 31-bit integers of their float32 bits, which
are ordered as the floats are.
"""
Integers = NDArray[np.int64]


def kept_count(weights: int, density: float) -> int:
    """Number of `weights` that are kept at `density` (0 < density <= 1): at least 1."""
    return max(1, weights - int((1 - density) * weights))


def floor_count(weights: int, floor: float) -> int:
    """Number of weights that a layer of `weights` keeps in any case under global scope: the
    fraction `floor` of them, at least 1.
    """
    return max(1, int(floor * weights))


def check_floors(kept: int, floors: Sequence[int]) -> None:
    """Raise UserError unless `kept` weights suffice for the layers' floors."""
    if sum(floors) <= kept:
        return
    # A floor of one weight cannot be lowered.
    lower = "lower the floor or " if max(floors) > 1 else ""
    raise UserError(
        f"the floors of the layers add up to {sum(floors)} weights, more than the {kept} to"
        f" keep: {lower}raise the density"
    )


class Ranking:
    """The threshold of a top-k selection, remembered from step to step.

    A threshold moves little in one step, so only |scores| near the last one need a close look: it
    saves work and changes no result.
    """

    NARROWEST, WIDEST = 1 << 12, 1 << 19  # of 2^23 between a number and its double

    def __init__(self) -> None:
        self._threshold: int | None = None
        self._reach = self.WIDEST

    def window(self) -> Window | None:
        """Where the threshold is expected now; None before the first step."""
        if self._threshold is None:
            return None
        low = max(0, self._threshold - self._reach)
        high = min(INFINITE - 1, self._threshold + self._reach)
        return low, high

    def learn(self, threshold: int) -> None:
        """Remember the threshold of this step (as in `Window`), and how far it moved."""
        if self._threshold is not None:
            moved = abs(threshold - self._threshold)
            self._reach = min(max(4 * moved, self.NARROWEST), self.WIDEST)
        self._threshold = threshold


def keep_top(scores: Tensor, kept: int) -> Tensor:
    """Mask of the `kept` largest |scores|.

    Args:
        scores: float tensor of any shape.
        kept: 0 <= kept <= scores.numel().

    Returns:
        Bool tensor of the same shape, exactly `kept` of it True.

    Raises:
        FloatingPointError: a score is infinite or not a number.
    """
    (mask,) = keep_top_of_each([scores], [kept])
    return mask


def keep_top_of_each(
    scores: Sequence[Tensor],
    kept: Sequence[int],
    rankings: Sequence[Ranking] | None = None,
    check: bool = True,
) -> list[Tensor]:
    """`keep_top` of several tensors, each on its own.

    Args:
        scores: float tensors.
        kept: for each tensor, how many are kept.
        rankings: one for each tensor, kept from step to step.
        check: False: the caller makes sure that all scores are finite, and nothing here waits for a
            GPU.
    """
    rankings = rankings or [Ranking() for _ in scores]
    if core := _core(scores):
        return [
            _keep_top_by_core(core, [layer], count, ranking)[0]
            for layer, count, ranking in zip(scores, kept, rankings, strict=True)
        ]
    if check:
        check_finite(scores)
    return [keep_top_traced(layer, count) for layer, count in zip(scores, kept, strict=True)]


def keep_top_of_all(
    scores: Sequence[Tensor], kept: int, ranking: Ranking | None = None
) -> list[Tensor]:
    """`keep_top` over several tensors as if they were one, concatenated: one mask for each."""
    if core := _core(scores):
        return _keep_top_by_core(core, scores, kept, ranking or Ranking())
    check_finite(scores)
    joined = torch.cat([layer.detach().flatten() for layer in scores])
    masks = _keep_top_flat(joined, kept).split([layer.numel() for layer in scores])
    return [mask.view(layer.shape) for mask, layer in zip(masks, scores, strict=True)]


def keep_top_traced(scores: Tensor, kept: int) -> Tensor:
    """`keep_top` by tensor operations alone, for tracers and transforms, where values cannot be
    read.

    The caller makes sure that all scores are finite: nothing can be raised here.
    """
    return _keep_top_flat(scores.detach().flatten(), kept).view(scores.shape)


def _core(scores: Sequence[Tensor]) -> ctypes.CDLL | None:
    """The compiled core, if it can select from these tensors."""
    usable = all(
        layer.device.type == "cpu" and layer.dtype == torch.float32 and addressable(layer)
        for layer in scores
    )
    return native.library() if usable else None


def check_finite(scores: Sequence[Tensor]) -> None:
    """Raise FloatingPointError if a score is infinite or not a number."""
    # One comparison for all tensors: on a GPU, each is a host-device synchronisation.
    largest = [layer.detach().abs().amax() for layer in scores if layer.numel()]
    if largest and not torch.isfinite(torch.stack(largest)).all():
        raise FloatingPointError(NOT_FINITE)


@dataclass
class _Scan:
    """What one pass over all scores finds, for a window.

    Attributes:
        masks: for each layer, bool [n]: which |scores| are above the window.
        above: how many those are.
        inside: for each layer, the indices of the |scores| in the window; None where some part of a
            layer has more of them than there was room for.
    """

    masks: list[NDArray[np.bool_]]
    above: int
    inside: list[Integers] | None

    def decides(self, kept: int) -> bool:
        """Whether the kept-th largest |score| is in the window."""
        if self.inside is None:
            return False
        return self.above < kept <= self.above + sum(map(len, self.inside))


def _keep_top_by_core(
    core: ctypes.CDLL, scores: Sequence[Tensor], kept: int, ranking: Ranking
) -> list[Tensor]:
    """`keep_top_of_all` by the compiled core."""
    # Tensors, not numpy views of them: a storage that numpy has seen cannot be resized any more,
    # which FSDP does.
    flats = [layer.detach().contiguous().view(-1) for layer in scores]
    if not any(map(len, flats)):
        return [torch.zeros_like(layer, dtype=torch.bool) for layer in scores]
    scan = _scan_near_threshold(core, flats, kept, ranking)
    assert scan.inside is not None
    candidates = _gather(flats, scan.inside)
    chosen = _keep_top_flat(candidates, kept - scan.above).numpy()
    if chosen.any():
        smallest = np.abs(candidates.numpy()[chosen]).min()
        ranking.learn(int(smallest.view(np.uint32)))
    _set_chosen(scan.masks, scan.inside, chosen)
    return [
        torch.from_numpy(mask).view(layer.shape)
        for mask, layer in zip(scan.masks, scores, strict=True)
    ]


def _scan_near_threshold(
    core: ctypes.CDLL, flats: Sequence[Tensor], kept: int, ranking: Ranking
) -> _Scan:
    """A scan whose window has the kept-th largest |score| in it: around the last threshold, or
    where that does not do, the bin of a histogram.
    """
    if window := ranking.window():
        scan = _scan(core, flats, window, native.WEIGHTS // 16)
        if scan.decides(kept):
            return scan
    window, room = _window_by_counting(core, flats, max(1, kept))
    return _scan(core, flats, window, room)


def _gather(flats: Sequence[Tensor], indices: Sequence[Integers]) -> Tensor:
    """The elements of all tensors at these indices, concatenated."""
    return torch.cat(
        [
            flat.index_select(0, torch.from_numpy(index))
            for flat, index in zip(flats, indices, strict=True)
        ]
    )


def _set_chosen(
    masks: Sequence[NDArray[np.bool_]], inside: Sequence[Integers], chosen: NDArray[np.bool_]
) -> None:
    """Set the masks, in place, at those of the indices that are chosen.

    Args:
        masks: one a layer.
        inside: indices into each mask.
        chosen: for all indices, concatenated.
    """
    start = 0
    for mask, index in zip(masks, inside, strict=True):
        end = start + len(index)
        mask[index[chosen[start:end]]] = True
        start = end


def _scan(core: ctypes.CDLL, flats: Sequence[Tensor], window: Window, room: int) -> _Scan:
    """One pass over all scores by the compiled core.

    Args:
        flats: float32 [n] each.
        window: |scores| of a close look.
        room: how many indices of a part (`native.WEIGHTS` scores) fit in.

    Raises:
        FloatingPointError: a score is infinite or not a number.
    """
    scan = _Scan([], 0, [])
    for flat in flats:
        mask, above, inside = _scan_layer(core, flat, window, room)
        scan.masks.append(mask)
        scan.above += above
        if inside is None:
            scan.inside = None
        elif scan.inside is not None:
            scan.inside.append(inside)
    return scan


def _scan_layer(
    core: ctypes.CDLL, flat: Tensor, window: Window, room: int
) -> tuple[NDArray[np.bool_], int, Integers | None]:
    """`_scan` of one layer: its mask, how many are above, and the indices inside."""
    grain = native.WEIGHTS
    parts = -(-len(flat) // grain)
    mask = np.empty(len(flat), dtype=np.bool_)
    indices = np.empty((parts, room), dtype=np.int64)
    tallies = np.zeros((parts, 3), dtype=np.int64)  # above, inside, not finite
    native.run(
        core.biprop_choose,
        [flat.data_ptr(), mask.ctypes.data],
        len(flat),
        torch.get_num_threads(),
        sizes=[grain, *window, ctypes.c_int64(room)],
        arrays=[tallies, indices],
        grain=grain,
    )
    above, inside, not_finite = tallies.T
    if not_finite.any():
        raise FloatingPointError(NOT_FINITE)
    if (inside > room).any():
        return mask, int(above.sum()), None
    return mask, int(above.sum()), indices[np.arange(room) < inside[:, None]]


def _window_by_counting(
    core: ctypes.CDLL, flats: Sequence[Tensor], kept: int
) -> tuple[Window, int]:
    """The bin of |scores| that has the kept-th largest, as a window, and the most of it that a part
    (`native.WEIGHTS` scores) has.
    """
    counts = np.concatenate([_histogram(core, flat) for flat in flats])
    totals = counts.sum(0, dtype=np.int64)
    in_bin_or_above = totals[::-1].cumsum()[::-1]
    highest_bin = int(np.flatnonzero(in_bin_or_above >= kept)[-1])
    window = (highest_bin << SHIFT, ((highest_bin + 1) << SHIFT) - 1)
    return window, int(counts[:, highest_bin].max())


def _histogram(core: ctypes.CDLL, flat: Tensor) -> NDArray[np.uint32]:
    """[parts, BINS]: how many |scores| of each part (`native.WEIGHTS` scores) are in each bin."""
    grain = native.WEIGHTS
    counts = np.zeros((-(-len(flat) // grain), BINS), dtype=np.uint32)
    addresses = [flat.data_ptr(), counts.ctypes.data]
    threads = torch.get_num_threads()
    native.run(core.biprop_histogram, addresses, len(flat), threads, sizes=[grain], grain=grain)
    return counts


def _keep_top_flat(scores: Tensor, kept: int) -> Tensor:
    """`keep_top` of a flat tensor of finite scores, without a host-device synchronisation."""
    count = len(scores)
    assert 0 <= kept <= count, (kept, count)
    if kept in (0, count):
        return torch.full_like(scores, kept > 0, dtype=torch.bool)
    magnitudes = scores.abs()
    threshold = _smallest_kept(magnitudes, kept)
    mask = magnitudes > threshold
    ties = magnitudes == threshold  # of these the last are kept
    place = ties.cumsum(0)
    missing = kept - mask.sum()
    return mask | ties & (place > place[-1] - missing)


def _smallest_kept(magnitudes: Tensor, kept: int) -> Tensor:
    """The kept-th largest element of a flat tensor, as a scalar tensor."""
    pruned = len(magnitudes) - kept
    is_float = magnitudes.dtype in (torch.float32, torch.float64)
    if magnitudes.device.type == "cpu" and is_float and addressable(magnitudes):
        # numpy partitions with vector instructions: 7 ms for 2.4 M floats where kthvalue takes 49
        # and a sort 375 (one core).
        partitioned = np.partition(magnitudes.numpy(), pruned)
        return torch.from_numpy(partitioned[pruned : pruned + 1])[0]
    # Not kthvalue: on a GPU it gives a whole layer to one block of threads, topk many blocks.
    if kept <= pruned:
        return magnitudes.topk(kept, sorted=False).values.amin()
    return magnitudes.topk(pruned + 1, largest=False, sorted=False).values.amax()


def keep_top_global(
    scores: Sequence[Tensor],
    kept: int,
    floors: Sequence[int],
    ranking: Ranking | None = None,
    check: bool = True,
) -> list[Tensor]:
    """Masks of the `kept` largest |scores| of all layers together, with a floor for each layer.

    A layer below its floor keeps its own top `floors[i]`, and the other layers share what remains,
    so that exactly `kept` are kept in all. Without a floor a layer can lose all its weights, and
    the network its signal (the original research code divides 0 by 0 there and turns into NaN).

    Args:
        scores: float tensors, one a layer.
        kept: how many are kept in all.
        floors: for each layer, how many it keeps at least.
        ranking: of the common selection, kept from step to step.
        check: as of `keep_top_of_each`.

    Returns:
        Bool tensors of the shapes of `scores`.

    Raises:
        FloatingPointError: a score is infinite or not a number.
        UserError: the floors add up to more than `kept`.
    """
    check_floors(kept, floors)
    if not check and _core(scores) is None:
        return _keep_top_global_traced(scores, kept, floors)
    masks: dict[int, Tensor] = {}
    shared = list(range(len(scores)))
    while shared:
        remaining = kept - sum(floors[i] for i in masks)
        candidates = keep_top_of_all([scores[i] for i in shared], remaining, ranking)
        counts = torch.stack([mask.count_nonzero() for mask in candidates]).tolist()
        below = [i for i, count in zip(shared, counts, strict=True) if count < floors[i]]
        if not below:
            masks |= dict(zip(shared, candidates, strict=True))
            break
        # Their floors raise the threshold of the other layers, which are checked again.
        masks |= {i: keep_top(scores[i], floors[i]) for i in below}
        shared = [i for i in shared if i not in masks]
    return [masks[i] for i in range(len(scores))]


def _keep_top_global_traced(
    scores: Sequence[Tensor], kept: int, floors: Sequence[int]
) -> list[Tensor]:
    """`keep_top_global` by tensor operations alone: each layer's floor comes first, then the
    largest |scores| of the rest.

    A layer above its floor has its floor among what it keeps, so this is the same selection.
    """
    magnitudes = [layer.detach().abs() for layer in scores]
    first = [keep_top_traced(layer, floor) for layer, floor in zip(scores, floors, strict=True)]
    ranked = [
        layer.masked_fill(mask, torch.inf).flatten()
        for layer, mask in zip(magnitudes, first, strict=True)
    ]
    masks = _keep_top_flat(torch.cat(ranked), kept).split([layer.numel() for layer in scores])
    return [mask.view(layer.shape) for mask, layer in zip(masks, scores, strict=True)]
