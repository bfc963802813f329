"""Checkpoints of the original research code: what they do not say is read off the tensors' names and shapes."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .config import Config
from .errors import UserError, did_you_mean
from .network import Task
from .plans import NETWORKS, PLAIN


def describe(checkpoint: dict[str, Any], state: dict[str, Tensor], where: object) -> tuple[Config, Task]:
    """The configuration and task of a checkpoint.

    Args:
        checkpoint: the file's content, of the second version (with `conv_type` and `prune_rate`).
        state: its state dict without `module.` prefixes.
        where: the file, for messages.

    Raises:
        UserError: an unknown network, or a checkpoint of the first version.
    """
    arch = checkpoint["arch"]
    if arch not in NETWORKS:
        raise UserError(f"{where}: arch = {arch!r}: no such network{did_you_mean(str(arch), NETWORKS)}")
    for field in ("conv_type", "prune_rate"):
        if field not in checkpoint:
            raise UserError(f"{where}: a checkpoint of the first version, without {field}: pass --conv-type and --prune-rate")
    weights = [value for key, value in state.items() if key.endswith(".weight") and value.dim() == 4]
    if not weights:
        raise UserError(f"{where}: no convolution in the state dict")
    first, last = weights[0], weights[-1]
    affine = any(key.endswith(".weight") and value.dim() == 1 for key, value in state.items())
    width_mult, side = 1.0, 32
    if arch in PLAIN:
        plan = PLAIN[arch]
        convs = [token for token in plan.convs.split() if token[0] == "c"]
        if plan.wide:
            width_mult = first.shape[0] / int(convs[0][1:])
        channels = int(int(convs[-1][1:]) * width_mult) if convs else first.shape[1]
        side = math.isqrt(state["linear.0.weight"].shape[1] // channels) << plan.convs.split().count("M")
    config = Config(
        arch=arch,
        width_mult=width_mult,
        bn_type="AffineBatchNorm" if affine else "NonAffineBatchNorm",
        conv_type=checkpoint["conv_type"],
        prune_rate=checkpoint["prune_rate"],
        layer_floor=0.0,
    )
    return config, Task(num_classes=last.shape[0], channels=first.shape[1], input_size=(side, side))
