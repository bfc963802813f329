"""Density schedules: from dense to the final density over the first epochs."""

from __future__ import annotations


def ramp_epochs(prune_rate_epoch: int, epochs: int) -> int:
    """Length of the density schedule: `prune_rate_epoch`, but at most a third of the run.

    The original schedule of a fixed length never reaches the final density in a short run, whose
    result is then a denser network than its name says.
    """
    return min(prune_rate_epoch, epochs // 3)


def scheduled_density(density: float, epoch: float, ramp: float) -> float:
    """Density in `epoch` (from 0) of the progressive schedule of global pruning: one half at first,
    `density` from `ramp` on.

    The pruned fraction follows (1 - k) + (0.5 - (1 - k)) * (1 - epoch / ramp)^3. A final density
    above one half has no schedule. `epoch` and `ramp` may be in another unit, both in the same.
    """
    if density > 0.5 or epoch >= ramp:
        return density
    pruned = (1 - density) + (0.5 - (1 - density)) * (1 - epoch / ramp) ** 3
    return 1 - pruned
