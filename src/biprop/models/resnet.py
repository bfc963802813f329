"""Residual networks for small images (CIFAR), as data.

State names are those of the original research code: conv1, bn1, layer<stage>.<block>.{conv1, bn1, conv2, bn2, shortcut.0,
shortcut.1}, fc.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Plan:
    """One CIFAR ResNet of basic blocks: width of the stem, widths and numbers of blocks of the stages, kind of activation."""

    stem: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    binary: bool = False


def _plans() -> dict[str, Plan]:
    plans = {"cResNet18": Plan(64, (64, 128, 256, 512), (2, 2, 2, 2))}
    for depth in (20, 32, 44, 56, 110):
        plans[f"cResNet{depth}"] = Plan(16, (16, 32, 64), ((depth - 2) // 6,) * 3)
    binary = {f"{name}_BinAct": Plan(p.stem, p.widths, p.blocks, binary=True) for name, p in plans.items()}
    return plans | binary


PLANS: dict[str, Plan] = _plans()


def _conv(in_width: int, out_width: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_width, out_width, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """act(bn2(conv2(act(bn1(conv1(x))))) + shortcut(x))."""

    def __init__(
        self, in_width: int, width: int, stride: int, norm: Callable[[int], nn.Module], activation: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.conv1 = _conv(in_width, width, 3, stride)
        self.bn1 = norm(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = norm(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_width != width:
            self.shortcut = nn.Sequential(_conv(in_width, width, 1, stride), norm(width))
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.activation(out + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A CIFAR ResNet built from a `Plan`. Input [B, channels, H, W] float; output [B, num_classes] logits.

    Args:
        head_pool: None averages over all positions; a number averages over windows of that size, and every window gives
            `num_classes` outputs (index = class * windows + window), as the original research code has it by oversight for
            the networks that end at 8x8.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        num_classes: int,
        channels: int,
        norm: Callable[[int], nn.Module],
        binary: Callable[[], nn.Module],
        head_bias: bool = False,
        head_pool: int | None = None,
    ) -> None:
        super().__init__()
        activation = binary if plan.binary else nn.ReLU
        self.conv1 = _conv(channels, plan.stem, 3)
        self.bn1 = norm(plan.stem)
        in_width = plan.stem
        for stage, (width, blocks) in enumerate(zip(plan.widths, plan.blocks, strict=True), start=1):
            layer = nn.Sequential()
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                layer.append(BasicBlock(in_width, width, stride, norm, activation))
                in_width = width
            self.add_module(f"layer{stage}", layer)
        self.fc = nn.Conv2d(in_width, num_classes, 1, bias=head_bias)
        self.activation = activation()
        self.stages = len(plan.widths)
        self.head_pool = head_pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.bn1(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        x = F.adaptive_avg_pool2d(x, 1) if self.head_pool is None else F.avg_pool2d(x, self.head_pool)
        return self.fc(x).flatten(1)  # type: ignore[no-any-return]
