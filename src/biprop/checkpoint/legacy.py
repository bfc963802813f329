"""Checkpoints of the original research code: the options that they do not store are derived from
the names and shapes of their tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..config import Config, check, coerce
from ..errors import UserError, abbreviated, did_you_mean
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
    arch = _checked_arch(checkpoint, where)
    weights = [value for key, value in state.items() if _is_convolution(key, value)]
    if not weights or not all(weight.numel() for weight in weights):
        raise UserError(f"{where}: no convolution in the state dict")
    first, last = weights[0], weights[-1]
    width_mult, side = 1.0, 32
    if arch in PLAIN:
        width_mult, side = _plain(arch, first, state, where)
    has_affine = any(key.endswith(".weight") and value.dim() == 1 for key, value in state.items())
    config = Config(
        arch=arch,
        width_mult=width_mult,
        bn_type="AffineBatchNorm" if has_affine else "NonAffineBatchNorm",
        conv_type=coerce("conv_type", checkpoint["conv_type"], str(where)),
        prune_rate=coerce("prune_rate", checkpoint["prune_rate"], str(where)),
        layer_floor=0.0,
        channels_last=False,
    )
    check(config)
    return config, Task(num_classes=last.shape[0], channels=first.shape[1], input_size=(side, side))


def _checked_arch(checkpoint: Mapping[str, Any], where: object) -> str:
    """The network's name.

    Raises:
        UserError: it is unknown, or the checkpoint is of the first version.
    """
    arch = checkpoint["arch"]
    if not isinstance(arch, str) or arch not in NETWORKS:
        raise UserError(
            f"{where}: arch = {abbreviated(repr(arch))}: no such"
            f" network{did_you_mean(abbreviated(arch), NETWORKS)}"
        )
    for field in ("conv_type", "prune_rate"):
        if field not in checkpoint:
            raise UserError(
                f"{where}: a checkpoint of the first version, without {field}: pass --conv-type and"
                " --prune-rate"
            )
    return arch


def _is_convolution(key: str, value: Tensor) -> bool:
    """Whether an entry of a state dict is the weight of a 2d convolution."""
    return key.endswith(".weight") and value.dim() == 4


def _plain(
    arch: str, first: Tensor, state: Mapping[str, Tensor], where: object
) -> tuple[float, int]:
    """Width multiplier, and side of the input images in pixels, of a plain network's tensors.

    Args:
        arch: the network's name.
        first: weight of the first convolution.
        state: the state dict.
        where: the file, for messages.
    """
    plan = PLAIN[arch]
    head = state.get("linear.0.weight")
    if head is None or head.dim() != 4:
        raise UserError(
            f"{where}: a checkpoint of another network than {arch}: lacks linear.0.weight"
        )
    tokens = plan.convs.split()
    widths = [int(token[1:]) for token in tokens if token[0] == "c"]
    width_mult = first.shape[0] / widths[0] if plan.wide else 1.0
    last_channels = int(widths[-1] * width_mult) if widths else first.shape[1]
    pooled_side = math.isqrt(head.shape[1] // max(1, last_channels))
    return width_mult, max(1, pooled_side << tokens.count("M"))
