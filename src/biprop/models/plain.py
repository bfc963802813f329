"""Networks without branches: FC, Conv2/4/6/8 and VGG-Small, with their wide and binary-activation
forms, as modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .plans import PlainPlan
from .whitening import WINDOW, whitening_filters


class Whitening(nn.Conv2d):
    """A 2x2 convolution that a search computes from its training images, and leaves as it is."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 8 * channels, WINDOW, bias=False)
        self.weight.requires_grad_(False)

    def fit(self, images: Tensor) -> None:
        """Take the filters that whiten normalised images [N, C, H, W]; see `whitening_filters`."""
        with torch.no_grad():
            self.weight.copy_(whitening_filters(images))


def _side_of_map(tokens: Sequence[str], side: int) -> int:
    """Height or width of the last map, for images of that height or width."""
    for token in tokens:
        side = {"M": side // 2, "W": side - 1, "G": min(side, 1)}.get(token, side)
    return max(side, 0)


class PlainNet(nn.Module):
    """A network built from a `PlainPlan`.

    Input [B, channels, H, W] float; output [B, num_classes] logits.

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
        tokens = plan.convs.split()
        height, width = (_side_of_map(tokens, side) for side in input_size)
        if not height or not width:
            size = f"{input_size[0]}x{input_size[1]}"
            pools, least = tokens.count("M"), (1 << tokens.count("M")) + tokens.count("W")
            raise ValueError(
                f"input size {size}: the network halves it {pools} times, so it needs {least}"
                " or more"
            )

        before_global = tokens[: tokens.index("G")] if "G" in tokens else tokens
        whole = tuple(_side_of_map(before_global, side) for side in input_size)

        def layer(token: str, in_width: int, kernel: int) -> nn.Module:
            if token[0] == "c":
                out_width = int(int(token[1:]) * width_mult) if token[1:] else num_classes
                bias = head_bias and token == "c"
                return nn.Conv2d(in_width, out_width, kernel, padding=kernel // 2, bias=bias)
            made: dict[str, Callable[[], nn.Module]] = {
                "W": lambda: Whitening(in_width),
                "G": lambda: nn.MaxPool2d(whole, max(whole)),
                "M": lambda: nn.MaxPool2d(2),
                "B": lambda: norm(in_width),
                "R": nn.ReLU,
                "A": binary,
                "Z": lambda: binary(zero=0),
            }
            return made[token]()

        def stack(tokens: str, in_width: int, kernel: int) -> tuple[nn.Sequential, int]:
            layers = nn.Sequential()
            for token in tokens.split():
                layers.append(layer(token, in_width, kernel))
                in_width = getattr(layers[-1], "out_channels", in_width)
            return layers, in_width

        self.convs, features = stack(plan.convs, channels, kernel=3)
        self.linear, _ = stack(plan.head, features * height * width, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x)
        x = x.flatten(1)[:, :, None, None]
        return self.linear(x).flatten(1)  # type: ignore[no-any-return]
