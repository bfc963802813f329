"""Networks without branches: FC, Conv2/4/6/8 and VGG-Small, with their wide and binary-activation
forms, as modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .plans import PlainPlan, parts
from .whitening import Whitening


class Residual(nn.Sequential):
    """Layers whose input is added to their output, of the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps floats of any shape that the layers take to the same shape."""
        return super().forward(x) + x  # type: ignore[no-any-return]


class PlainNet(nn.Module):
    """A network built from a `PlainPlan`.

    Input [B, channels, H, W] float; output [B, num_classes] logits.

    Args:
        plan: the layers, in their order.
        num_classes: outputs.
        channels: of the input.
        input_size: (height, width) of the input.
        width_mult: multiplies the widths of the plan.
        norm: makes a batch norm of so many channels.
        binary: makes a binary activation; takes `zero`, the value of sign(0).
        head_bias: give the last layer a bias.

    Raises:
        ValueError: the input is too small for the network's pools.
    """

    def __init__(
        self,
        plan: PlainPlan,
        *,
        num_classes: int,
        channels: int,
        input_size: tuple[int, int],
        width_mult: float,
        norm: Callable[[int], nn.Module],
        binary: Callable[..., nn.Module],
        head_bias: bool = False,
    ) -> None:
        super().__init__()
        whole_map = _map_size(plan, input_size)
        builder = _Builder(num_classes, width_mult, norm, binary, head_bias, whole_map)
        self.convs, features = builder.stack(parts(plan.convs), channels, kernel=3)
        height, width = (1, 1) if plan.has_global_pool else whole_map
        self.linear, _ = builder.stack(parts(plan.head), features * height * width, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, channels, H, W] float."""
        x = self.convs(x)
        x = x.flatten(1)[:, :, None, None]
        return self.linear(x).flatten(1)  # type: ignore[no-any-return]


def _map_size(plan: PlainPlan, input_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the feature maps after the plan's convolutions and pools, or before its
    global pool, which is the last of them.

    Raises:
        ValueError: nothing is left of the input.
    """
    tokens = plan.convs.split()
    pools, windows = tokens.count("M"), tokens.count("W")
    height, width = ((side - windows) >> pools for side in input_size)
    if min(height, width) < 1:
        size = f"{input_size[0]}x{input_size[1]}"
        least = (1 << pools) + windows
        raise ValueError(
            f"input size {size}: the network halves it {pools} times, so it needs {least} or more:"
            " pass --image-size, or choose another --arch"
        )
    return height, width


@dataclass(frozen=True)
class _Builder:
    """Builds layers from the tokens of a plan; the attributes are arguments of `PlainNet`."""

    num_classes: int
    width_mult: float
    norm: Callable[[int], nn.Module]
    binary: Callable[..., nn.Module]
    head_bias: bool
    whole_map: tuple[int, int]

    def stack(
        self, tokens: Sequence[str | tuple[str, ...]], width: int, kernel: int
    ) -> tuple[nn.Sequential, int]:
        """The layers of a plan, and the channels that come out.

        Args:
            tokens: of `parts`.
            width: channels that go in.
            kernel: side of the convolutions' kernels.
        """
        layers = nn.Sequential()
        for token in tokens:
            if isinstance(token, tuple):
                layers.append(Residual(*self.stack(token, width, kernel)[0]))
                continue
            layer = self.layer(token, width, kernel)
            layers.append(layer)
            width = getattr(layer, "out_channels", width)
        return layers, width

    def layer(self, token: str, width: int, kernel: int) -> nn.Module:
        if token == "M":
            return nn.MaxPool2d(2)
        if token == "G":
            return nn.MaxPool2d(self.whole_map, max(self.whole_map))
        if token == "W":
            return Whitening(width)
        if token == "B":
            return self.norm(width)
        if token == "R":
            return nn.ReLU()
        if token == "A":
            return self.binary()
        if token == "Z":
            return self.binary(zero=0)
        return self.convolution(token, width, kernel)

    def convolution(self, token: str, in_width: int, kernel: int) -> nn.Conv2d:
        """c64 has 64 channels times the width multiplier, rounded down; c one per class."""
        is_last = token == "c"
        out_width = self.num_classes if is_last else int(int(token[1:]) * self.width_mult)
        bias = is_last and self.head_bias
        return nn.Conv2d(in_width, out_width, kernel, padding=kernel // 2, bias=bias)
