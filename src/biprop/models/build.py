"""`build` makes a network by its name, with dense layers; `biprop.convert` turns it into a
subnetwork.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from ..subnetwork.layers import BinaryActivation
from .plain import PlainNet
from .plans import BATCH_NORMS, NETWORKS, PLAIN, RESIDUAL, check, takes_width
from .resnet import ResNet

__all__ = ["BATCH_NORMS", "NETWORKS", "build", "takes_width"]


def build(
    name: str,
    *,
    num_classes: int = 10,
    channels: int = 3,
    input_size: tuple[int, int] = (32, 32),
    bn_type: str = "NonAffineBatchNorm",
    width_mult: float = 1.0,
    head_bias: bool = False,
    ancestor: bool = False,
) -> nn.Module:
    """Build a network, dense, with PyTorch's default weights.

    Args:
        name: one of `NETWORKS`.
        num_classes: 2 or more.
        channels: of the input images.
        input_size: (height, width) of the input images.
        bn_type: one of `BATCH_NORMS`.
        width_mult: scales the widths of the plain networks with Wide in their name.
        head_bias: give the last layer a bias.
        ancestor: reproduce two oddities of the original research code, for its checkpoints: sign(0)
            = 0 in binary activations, and the fixed 4x4 pool before the classifier of the CIFAR
            ResNets (40 outputs where their feature maps are 8x8). Tickets have the key "ancestor".

    Returns:
        A module from [B, channels, H, W] floats to [B, num_classes] logits.

    Raises:
        ValueError: an unknown name or type, a width multiplier for a network that has none, or too
            small an input.
    """
    check(name, bn_type, width_mult)
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "channels": channels,
        "head_bias": head_bias,
        "norm": partial(nn.BatchNorm2d, affine=BATCH_NORMS[bn_type]),
        "binary": partial(BinaryActivation, zero=0 if ancestor else 1),
    }
    if name in PLAIN:
        return PlainNet(PLAIN[name], input_size=input_size, width_mult=width_mult, **options)
    plan = RESIDUAL[name]
    head_pool = 4 if ancestor and not plan.imagenet else None
    return ResNet(plan, head_pool=head_pool, **options)
