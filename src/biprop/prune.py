"""Who is kept: exact selection by score, in one layer or over the whole network, and the density schedule.

The rule (ICLR 2021 paper, section 3; exact to the weight): sort |scores| in ascending order; the first int((1 - k) * n) are
pruned, computed in double precision; the rest is kept. Ties are broken by index: among equal |scores| the earlier weight goes
first. In global scope the order is that of the concatenated layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


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
    magnitudes = scores.detach().abs().flatten()
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
    return mask.view(scores.shape)


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
        flat = torch.cat([scores[i].detach().flatten() for i in free])
        parts = keep_top(flat, kept - sum(floors[i] for i in masks)).split([scores[i].numel() for i in free])
        counts = torch.stack([part.sum() for part in parts]).tolist()
        poor = [i for i, count in zip(free, counts, strict=True) if count < floors[i]]
        if not poor:
            masks |= {i: part.view(scores[i].shape) for i, part in zip(free, parts, strict=True)}
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
