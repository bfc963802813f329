"""Residual networks as modules, for small images (cResNet, cWideResNet, WidePreActResNet) and
ImageNet (ResNet, WideResNet).

State names are those of the original research code: conv1, bn1, layer<stage>.<block>.{conv1, bn1,
conv2, bn2, ...}, fc; the projection of a shortcut is shortcut.0/.1 in the small networks and
downsample.0/.1 in those for ImageNet.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from .plans import ResidualPlan

Make = Callable[[], nn.Module]
MakeNorm = Callable[[int], nn.Module]


def _conv(in_width: int, out_width: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_width, out_width, kernel, stride, padding=kernel // 2, bias=False)


class Block(nn.Module):
    """activation(residual(x) + shortcut(x)), with the last batch norm before or after the sum (see
    `ResidualPlan.last_norm`).

    Args:
        plan: of the network.
        in_width: channels of the input.
        width: of the stage; a bottleneck block has four times that many output channels.
        stride: of the block's first 3x3 convolution.
        norm: makes a batch norm of so many channels.
        activation: makes an activation.
    """

    def __init__(
        self,
        plan: ResidualPlan,
        in_width: int,
        width: int,
        stride: int,
        norm: MakeNorm,
        activation: Make,
    ) -> None:
        super().__init__()
        shapes = _block_shapes(plan, in_width, width, stride)
        self.convs = len(shapes)
        for i, shape in enumerate(shapes, start=1):
            self.add_module(f"conv{i}", _conv(*shape))
            self.add_module(f"bn{i}", norm(shape[1]))
        _, self.out_width, *_ = shapes[-1]
        self.shortcut_name = "downsample" if plan.imagenet else "shortcut"
        self.add_module(self.shortcut_name, _shortcut(in_width, self.out_width, stride, norm))
        self.last_norm = plan.last_norm
        self.norm_after = f"bn{self.convs}"
        if plan.last_norm == "both" and plan.kind == "bottleneck":
            self.norm_after = "bn4"
            self.bn4 = norm(self.out_width)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] to [B, C', H', W'], float."""
        out = x
        for i in range(1, self.convs + 1):
            out = self.get_submodule(f"conv{i}")(out)
            if i < self.convs:
                out = self.activation(self.get_submodule(f"bn{i}")(out))
            elif self.last_norm != "after":
                out = self.get_submodule(f"bn{i}")(out)
        out = out + self.get_submodule(self.shortcut_name)(x)
        if self.last_norm != "before":
            out = self.get_submodule(self.norm_after)(out)
        return self.activation(out)  # type: ignore[no-any-return]


def _block_shapes(
    plan: ResidualPlan, in_width: int, width: int, stride: int
) -> list[tuple[int, int, int, int]]:
    """(in channels, out channels, kernel, stride) of a block's convolutions."""
    if plan.kind == "basic":
        return [(in_width, width, 3, stride), (width, width, 3, 1)]
    inner = width * plan.inner
    return [(in_width, inner, 1, 1), (inner, inner, 3, stride), (inner, width * 4, 1, 1)]


def _shortcut(in_width: int, out_width: int, stride: int, norm: MakeNorm) -> nn.Sequential:
    """The identity, or a projection where a block changes the shape."""
    if stride == 1 and in_width == out_width:
        return nn.Sequential()
    return nn.Sequential(_conv(in_width, out_width, 1, stride), norm(out_width))


class PreActBlock(nn.Module):
    """conv2(act(bn2(conv1(o)))) + shortcut(o) with o = act(bn1(x)): identity shortcuts carry o, not
    x. Arguments as of `Block`.
    """

    def __init__(
        self,
        plan: ResidualPlan,
        in_width: int,
        width: int,
        stride: int,
        norm: MakeNorm,
        activation: Make,
    ) -> None:
        super().__init__()
        self.bn1 = norm(in_width)
        self.conv1 = _conv(in_width, width, 3, stride)
        self.bn2 = norm(width)
        self.conv2 = _conv(width, width, 3)
        self.shortcut = _shortcut(in_width, width, stride, norm)
        self.out_width = width
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] to [B, C', H', W'], float."""
        o = self.activation(self.bn1(x))
        out = self.conv2(self.activation(self.bn2(self.conv1(o))))
        return out + self.shortcut(o)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A residual network built from a `ResidualPlan`.

    Input [B, channels, H, W] float; output [B, num_classes] logits.

    Args:
        plan: the network.
        num_classes: outputs.
        channels: of the input.
        norm: makes a batch norm of so many channels.
        binary: makes a binary activation.
        head_bias: give the classifier a bias.
        head_pool: None averages over all positions; a number averages over windows of that size,
            and every window gives `num_classes` outputs (index = class * windows + window), as the
            original research code does by oversight in the networks that end at 8x8.
    """

    def __init__(
        self,
        plan: ResidualPlan,
        *,
        num_classes: int,
        channels: int,
        norm: MakeNorm,
        binary: Make,
        head_bias: bool = False,
        head_pool: int | None = None,
    ) -> None:
        super().__init__()
        activation = binary if plan.binary else nn.ReLU
        self.plan = plan
        self.head_pool = head_pool
        kernel, stride = (7, 2) if plan.imagenet else (3, 1)
        self.conv1 = _conv(channels, plan.stem, kernel, stride)
        if plan.kind != "preact":
            self.bn1 = norm(plan.stem)
        width = self._add_stages(norm, activation)
        if plan.kind == "preact":
            self.bn1 = norm(width)
        self.fc = nn.Conv2d(width, num_classes, 1, bias=head_bias)
        self.activation = activation()

    def _add_stages(self, norm: MakeNorm, activation: Make) -> int:
        """Add the stages as layer1, layer2, ...; returns their output channels."""
        plan, width = self.plan, self.plan.stem
        make_block = PreActBlock if plan.kind == "preact" else Block
        stages = zip(plan.widths, plan.blocks, strict=True)
        for stage, (stage_width, blocks) in enumerate(stages, start=1):
            layer = nn.Sequential()
            for number in range(blocks):
                stride = 2 if stage > 1 and number == 0 else 1
                block = make_block(plan, width, stage_width, stride, norm, activation)
                layer.append(block)
                width = block.out_width
            self.add_module(f"layer{stage}", layer)
        return width

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, channels, H, W] float."""
        x = self.conv1(x)
        for token in self.plan.stem_order.split():
            x = self._stem_layer(token, x)
        for stage in range(1, len(self.plan.blocks) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        if self.plan.kind == "preact":
            x = self.activation(self.bn1(x))
        return self.fc(self._pool(x)).flatten(1)  # type: ignore[no-any-return]

    def _stem_layer(self, token: str, x: Tensor) -> Tensor:
        """What one token of `ResidualPlan.stem_order` computes."""
        if token == "B":
            return self.bn1(x)  # type: ignore[no-any-return]
        if token == "A":
            return self.activation(x)  # type: ignore[no-any-return]
        return F.max_pool2d(x, 3, stride=2, padding=1)

    def _pool(self, x: Tensor) -> Tensor:
        if self.head_pool is None:
            return F.adaptive_avg_pool2d(x, 1)
        return F.avg_pool2d(x, self.head_pool)
