"""Who is kept: exact selection by score, in one layer or over the whole network, and the density schedule.

The rule (ICLR 2021 paper, section 3; exact to the weight): sort |scores| in ascending order; the first int((1 - k) * n) are
pruned, computed in double precision; the rest is kept. Ties are broken by index: among equal |scores| the earlier weight goes
first. In global scope the order is that of the concatenated layers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import native

BINS, INFINITE_BIN = 1 << 13, 0x7F800000 >> 18  # of |score|, by the 13 highest of its 31 bits


def kept_count(weights: int, density: float) -> int:
    """How many of `weights` are kept at `density` (0 < density <= 1): at least 1."""
    return max(1, weights - int((1 - density) * weights))


def floor_count(weights: int, floor: float) -> int:
    """How many weights a layer keeps in any case under global scope: the fraction `floor` of them, at least 1."""
    return max(1, int(floor * weights))


def check_floors(kept: int, floors: Sequence[int]) -> None:
    """Raise ValueError unless `kept` weights suffice for the layers' floors."""
    if sum(floors) > kept:
        raise ValueError(
            f"the floors of the layers add up to {sum(floors)} weights, more than the {kept} to keep: "
            "lower the floor or raise the density"
        )


def _kth_smallest(magnitudes: Tensor, k: int) -> Tensor:
    """The k-th smallest (from 1) of a flat tensor, as a scalar tensor."""
    if magnitudes.device.type == "cpu" and magnitudes.dtype in (torch.float32, torch.float64):
        # numpy partitions with vector instructions: 7 ms for 2.4 M floats where kthvalue takes 49 and a sort 375 (one core).
        return torch.from_numpy(np.partition(magnitudes.numpy(), k - 1)[k - 1 : k])[0]
    return torch.kthvalue(magnitudes, k).values


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
    (mask,) = keep_top_of_all([scores], kept)
    return mask


def keep_top_of_all(scores: Sequence[Tensor], kept: int) -> list[Tensor]:
    """`keep_top` over several tensors as if they were one, concatenated: one mask for each."""
    on_cpu = all(s.device.type == "cpu" and s.dtype == torch.float32 for s in scores)
    core = native.library() if on_cpu else None
    if core and kept > 0:
        return _keep_top_by_core(core, scores, kept)
    flat = scores[0].detach().flatten() if len(scores) == 1 else torch.cat([s.detach().flatten() for s in scores])
    parts = _keep_top_flat(flat, kept).split([s.numel() for s in scores])
    return [part.view(s.shape) for part, s in zip(parts, scores, strict=True)]


def _keep_top_by_core(core: ctypes.CDLL, scores: Sequence[Tensor], kept: int) -> list[Tensor]:
    """Two passes over the scores: how many fall into each of 8,192 bins, and who is above the bin with the threshold."""
    flats = [s.detach().contiguous().view(-1) for s in scores]
    threads, grain = torch.get_num_threads(), native.WEIGHTS
    histograms = [np.zeros((-(-len(flat) // grain), BINS), dtype=np.uint32) for flat in flats]
    for flat, histogram in zip(flats, histograms, strict=True):
        addresses = [flat.data_ptr(), histogram.ctypes.data]
        native.run(core.biprop_histogram, addresses, len(flat), threads, sizes=[grain], grain=grain)
    counts = np.sum([histogram.sum(0, dtype=np.int64) for histogram in histograms], axis=0)
    if counts[INFINITE_BIN:].any():
        raise FloatingPointError("a score is infinite or not a number")
    at_least = counts[::-1].cumsum()[::-1]  # how many are in a bin or above it
    bin_ = int(np.flatnonzero(at_least >= kept)[-1])
    missing = kept - int(at_least[bin_] - counts[bin_])

    masks, candidates = [], []
    for flat, histogram in zip(flats, histograms, strict=True):
        mask = torch.empty(len(flat), dtype=torch.bool)
        in_bin = histogram[:, bin_].astype(np.int64)
        places, offsets = np.empty(int(in_bin.sum()), dtype=np.int64), in_bin.cumsum() - in_bin
        addresses, arrays = [flat.data_ptr(), mask.data_ptr()], [offsets, places]
        native.run(core.biprop_mask, addresses, len(flat), threads, sizes=[grain, bin_], arrays=arrays, grain=grain)
        masks.append(mask)
        candidates.append(torch.from_numpy(places))
    chosen = _keep_top_flat(torch.cat([flat[these] for flat, these in zip(flats, candidates, strict=True)]), missing)
    for mask, bin_places, part in zip(masks, candidates, chosen.split([len(these) for these in candidates]), strict=True):
        mask[bin_places[part]] = True
    return [mask.view(s.shape) for mask, s in zip(masks, scores, strict=True)]


def _keep_top_flat(scores: Tensor, kept: int) -> Tensor:
    """`keep_top` of a flat tensor."""
    magnitudes = scores.abs()
    pruned = magnitudes.numel() - kept
    assert 0 <= pruned <= magnitudes.numel(), (kept, scores.shape)
    if not torch.isfinite(magnitudes.amax()):
        raise FloatingPointError("a score is infinite or not a number")
    if pruned == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = _kth_smallest(magnitudes, pruned)
    mask = magnitudes > threshold
    missing = kept - int(mask.sum())
    if missing:  # several scores equal the threshold: the last of them are kept
        mask[(magnitudes == threshold).nonzero().squeeze(1)[-missing:]] = True
    return mask


def keep_top_global(scores: Sequence[Tensor], kept: int, floors: Sequence[int]) -> list[Tensor]:
    """Masks of the `kept` largest |scores| of all layers together, where layer i keeps at least `floors[i]`.

    A layer below its floor is given its own top `floors[i]`, and the others share what remains, so that exactly `kept` are
    kept in all. Without a floor a layer can lose all its weights, and the network its signal (the original research code
    divides 0 by 0 there and turns into NaN).

    Returns:
        Bool tensors of the shapes of `scores`.

    Raises:
        FloatingPointError: a score is infinite or not a number.
        ValueError: the floors add up to more than `kept`.
    """
    check_floors(kept, floors)
    masks: dict[int, Tensor] = {}
    free = list(range(len(scores)))
    while free:
        parts = keep_top_of_all([scores[i] for i in free], kept - sum(floors[i] for i in masks))
        counts = torch.stack([part.sum() for part in parts]).tolist()
        poor = [i for i, count in zip(free, counts, strict=True) if count < floors[i]]
        if not poor:
            masks |= dict(zip(free, parts, strict=True))
            break
        # Taking weights from the others raises their threshold, so the check is repeated on them.
        masks |= {i: keep_top(scores[i], floors[i]) for i in poor}
        free = [i for i in free if i not in masks]
    return [masks[i] for i in range(len(scores))]


def ramp_epochs(prune_rate_epoch: int, epochs: int) -> int:
    """Length of the density schedule: `prune_rate_epoch`, but at most a third of the run.

    The original schedule of a fixed length never reaches the final density in a short run, whose result is then a denser
    network than its name says.
    """
    return min(prune_rate_epoch, epochs // 3)


def scheduled_density(density: float, epoch: int, ramp: int) -> float:
    """Density in `epoch` (from 0) of the progressive schedule of global pruning: one half at first, `density` from `ramp` on.

    The pruned fraction follows (1 - k) + (0.5 - (1 - k)) * (1 - epoch / ramp)^3. A final density above one half has no schedule.
    """
    if density > 0.5 or epoch >= ramp:
        return density
    pruned = (1 - density) + (0.5 - (1 - density)) * (1 - epoch / ramp) ** 3
    return 1 - pruned
