"""Learning-rate schedules."""

from __future__ import annotations

import math

STEPS: dict[str, tuple[tuple[int, float], ...]] = {
    "xnor_lr": ((30, 0.1), (44, 0.1), (54, 0.1)),
    "cos_multi_lr": ((30, 0.1), (44, 0.1), (54, 0.1)),
    "mpt132_w34_2_lr": ((27, 0.1), (44, 0.1), (54, 0.01)),
    "mpt11_w34_2_v2_lr": ((50, 0.1), (62, 0.1), (70, 0.01)),
    "mpt11_w18_2_lr": ((46, 0.1), (65, 0.1), (80, 0.01)),
    "mpt11_w18_2_v2_lr": ((35, 0.1), (50, 0.1), (60, 0.01)),
}
"""Policies with fixed steps: (epoch, factor) pairs; factors multiply up. From epoch 55 on,
cos_multi_lr is multiplied by a cosine over the whole run, which counts from epoch 0.
"""

PER_STEP = ("linear_lr",)
"""Policies that change the rate within an epoch."""
POLICIES = ("constant_lr", "linear_lr", "cosine_lr", "multistep_lr", *STEPS)


def learning_rate(
    policy: str,
    epoch: float,
    *,
    lr: float,
    epochs: int,
    warmup_length: int = 0,
    lr_adjust: int = 20,
    lr_gamma: float = 0.1,
    warmup_fraction: float = 0.1,
) -> float:
    """Learning rate of `epoch` (from 0) in a run of `epochs`, under one of `POLICIES`.

    An epoch with a fraction is a place between two: only policies of `PER_STEP` look at it.
    """

    def cosine(start: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * (epoch - start) / (epochs - start)))

    if policy == "linear_lr":
        progress = epoch / epochs
        if progress < warmup_fraction:
            return lr * (0.2 + 0.8 * progress / warmup_fraction)
        return lr * (1 - progress) / (1 - warmup_fraction)
    if policy in ("constant_lr", "cosine_lr"):
        if epoch < warmup_length:
            return lr * (epoch + 1) / warmup_length
        return lr if policy == "constant_lr" else lr * cosine(warmup_length)
    if policy == "multistep_lr":
        return lr * lr_gamma ** (epoch // lr_adjust)
    factor = math.prod(f for at, f in STEPS[policy] if epoch >= at)
    return lr * factor * (cosine(0) if policy == "cos_multi_lr" and epoch >= 55 else 1)
