"""Networks without branches: FC, Conv2/4/6/8 and VGG-Small, with their wide and binary-activation
forms, as modules.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .plans import PlainPlan


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
        pools = plan.convs.split().count("M")
        height, width = (side >> pools for side in input_size)
        if not height or not width:
            size = f"{input_size[0]}x{input_size[1]}"
            raise ValueError(
                f"input size {size}: the network halves it {pools} times, so it needs {1 << pools}"
                " or more"
            )

        def layer(token: str, in_width: int, kernel: int) -> nn.Module:
            if token[0] == "c":
                out_width = int(int(token[1:]) * width_mult) if token[1:] else num_classes
                bias = head_bias and token == "c"
                return nn.Conv2d(in_width, out_width, kernel, padding=kernel // 2, bias=bias)
            made: dict[str, Callable[[], nn.Module]] = {
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
