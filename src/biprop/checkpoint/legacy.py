"""Checkpoints of the original research code: what they do not say is read off the tensors' names
and shapes.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..config import Config, check, coerce
from ..errors import UserError, did_you_mean, shown
from ..models.network import Task
from ..models.plans import NETWORKS, PLAIN


def describe(
    checkpoint: dict[str, Any], state: dict[str, Tensor], where: object
) -> tuple[Config, Task]:
    """The configuration and task of a checkpoint.

    Args:
        checkpoint: the file's content, of the second version (with `conv_type` and `prune_rate`).
        state: its state dict without `module.` prefixes.
        where: the file, for messages.

    Raises:
        UserError: an unknown network, or a checkpoint of the first version.
    """
    arch = checkpoint["arch"]
    if not isinstance(arch, str) or arch not in NETWORKS:
        raise UserError(
            f"{where}: arch = {shown(repr(arch))}: no such"
            f" network{did_you_mean(shown(arch), NETWORKS)}"
        )
    for field in ("conv_type", "prune_rate"):
        if field not in checkpoint:
            raise UserError(
                f"{where}: a checkpoint of the first version, without {field}: pass --conv-type and"
                " --prune-rate"
            )
    weights = [
        value for key, value in state.items() if key.endswith(".weight") and value.dim() == 4
    ]
    if not weights or not all(weight.numel() for weight in weights):
        raise UserError(f"{where}: no convolution in the state dict")
    first, last = weights[0], weights[-1]
    affine = any(key.endswith(".weight") and value.dim() == 1 for key, value in state.items())
    width_mult, channels, side = (
        _plain(arch, state, where) if arch in PLAIN else (1.0, first.shape[1], 32)
    )
    config = Config(
        arch=arch,
        width_mult=width_mult,
        bn_type="AffineBatchNorm" if affine else "NonAffineBatchNorm",
        conv_type=coerce("conv_type", checkpoint["conv_type"], str(where)),
        prune_rate=coerce("prune_rate", checkpoint["prune_rate"], str(where)),
        layer_floor=0.0,
    )
    check(config)
    return config, Task(num_classes=last.shape[0], channels=channels, input_size=(side, side))


def _plain(arch: str, state: dict[str, Tensor], where: object) -> tuple[float, int, int]:
    """Width multiplier, channels of the images and their side, of a plain network's tensors."""
    plan = PLAIN[arch]
    first = next(
        value for key, value in state.items() if key.endswith(".weight") and value.dim() == 4
    )
    head = state.get("linear.0.weight")
    if head is None or head.dim() != 4:
        raise UserError(
            f"{where}: a checkpoint of another network than {arch}: lacks linear.0.weight"
        )
    convs = [token for token in plan.convs.split() if token[0] == "c"]
    width_mult = first.shape[0] / int(convs[0][1:]) if plan.wide else 1.0
    last_channels = int(int(convs[-1][1:]) * width_mult) if convs else first.shape[1]
    side = math.isqrt(head.shape[1] // max(1, last_channels)) << plan.convs.split().count("M")
    return width_mult, first.shape[1], max(1, side)
