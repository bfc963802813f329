"""The networks by name. `build` makes one with dense layers; `biprop.convert` turns it into a subnetwork.

Names are those of the original research code: `_BinAct` has binary activations (MPT-1/1), `Wide` takes a width multiplier.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from ..errors import did_you_mean
from ..layers import BinaryActivation
from . import plain, resnet

NETWORKS: tuple[str, ...] = (*plain.PLANS, *resnet.PLANS)

BATCH_NORMS = {"NonAffineBatchNorm": False, "AffineBatchNorm": True, "LearnedBatchNorm": True}
"""Batch-norm type -> whether it has weight and bias. Affine and Learned are the same module: what trains is the run's choice."""


def takes_width(name: str) -> bool:
    """Whether the network's widths can be multiplied."""
    return name in plain.PLANS and plain.PLANS[name].wide


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
        ancestor: reproduce two oddities of the original research code, for its checkpoints: sign(0) = 0 in binary activations,
            and the fixed 4x4 pool before the classifier of the CIFAR ResNets (40 outputs where they end at 8x8).

    Returns:
        A module from [B, channels, H, W] floats to [B, num_classes] logits.

    Raises:
        ValueError: an unknown name or type, a width multiplier for a network that has none, or too small an input.
    """
    if name not in NETWORKS:
        raise ValueError(f"arch = {name!r}: no such network{did_you_mean(name, NETWORKS)}")
    if bn_type not in BATCH_NORMS:
        raise ValueError(f"bn_type = {bn_type!r}: must be one of {', '.join(BATCH_NORMS)}")
    norm = partial(nn.BatchNorm2d, affine=BATCH_NORMS[bn_type])
    binary = partial(BinaryActivation, zero=0 if ancestor else 1)
    wide = takes_width(name)
    if width_mult != 1 and not wide:
        raise ValueError(
            f"width_mult = {width_mult:g}: {name} has a fixed width; Conv2Wide to Conv8Wide and Wide_VGG_Small take one"
        )
    if wide and int(16 * width_mult) < 1:
        raise ValueError(f"width_mult = {width_mult:g}: leaves a layer without channels")
    if name in plain.PLANS:
        return plain.PlainNet(
            plain.PLANS[name],
            num_classes=num_classes, channels=channels, input_size=input_size, width_mult=width_mult,
            norm=norm, binary=binary, head_bias=head_bias,
        )  # fmt: skip
    plan = resnet.PLANS[name]
    return resnet.ResNet(
        plan,
        num_classes=num_classes, channels=channels, norm=norm, binary=binary,
        head_bias=head_bias, head_pool=4 if ancestor and not plan.imagenet else None,
    )  # fmt: skip
