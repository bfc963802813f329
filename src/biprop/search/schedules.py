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
"""Policies with fixed steps, as in the original research code: (epoch, factor) pairs; factors
multiply up. From epoch 55 on, cos_multi_lr is multiplied by a cosine over the whole run, which
counts from epoch 0.
"""

PER_STEP = ("linear_lr",)
"""Policies that change the learning rate within an epoch."""
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
    """The learning rate of an epoch, or with a policy of `PER_STEP` of a step in it.

    Args:
        policy: one of `POLICIES`.
        epoch: from 0; 2.5 is the step in the middle of the third epoch.
        lr: the learning rate before any decay, above 0.
        epochs: of the whole run.
        warmup_length: epochs of linear warm-up; constant_lr and cosine_lr only.
        lr_adjust: epochs between two steps of multistep_lr.
        lr_gamma: factor of each of them.
        warmup_fraction: linear_lr only: the share of the run, in [0, 1), in which the learning rate
            rises from a fifth of `lr` to `lr`, before it falls to 0.
    """
    if policy == "linear_lr":
        return lr * _linear(epoch / epochs, warmup_fraction)
    if policy in ("constant_lr", "cosine_lr"):
        if epoch < warmup_length:
            return lr * (epoch + 1) / warmup_length
        return lr if policy == "constant_lr" else lr * _cosine(epoch, warmup_length, epochs)
    if policy == "multistep_lr":
        return lr * lr_gamma ** int(epoch // lr_adjust)
    return lr * _step_factor(policy, epoch, epochs)


def _linear(progress: float, warmup: float) -> float:
    """Up from 0.2 to 1 at progress `warmup`, then down to 0 at progress 1; all straight lines."""
    if progress < warmup:
        return 0.2 + 0.8 * progress / warmup
    return (1 - progress) / (1 - warmup)


def _step_factor(policy: str, epoch: float, epochs: int) -> float:
    """The factor of a policy with fixed steps."""
    factor = math.prod(factor for step, factor in STEPS[policy] if epoch >= step)
    if policy == "cos_multi_lr" and epoch >= 55:
        return factor * _cosine(epoch, 0, epochs)
    return factor


def _cosine(epoch: float, start: int, end: int) -> float:
    """Half a cosine: 1 at epoch `start`, 0 at epoch `end`."""
    return 0.5 * (1 + math.cos(math.pi * (epoch - start) / (end - start)))
