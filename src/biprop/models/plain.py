"""Networks without branches: FC, Conv2/4/6/8 and VGG-Small, with their wide and binary-activation forms, as data.

A plan is read from left to right. c64: 3x3 convolution without bias; M: 2x2 max pool; B: batch norm; R: ReLU; A: binary
activation. In the head c256 is a linear layer, written as a 1x1 convolution as in the original research code, and c has one
output per class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Plan:
    """One plain network: its convolutions, its head, and whether `width_mult` scales its widths."""

    convs: str
    head: str
    wide: bool = False


def _pairs(widths: tuple[int, ...], pair: str, last: str | None = None) -> str:
    """The plan `pair` once per width, with the width written to its convolutions; `last` for the last one."""
    plans = [pair] * (len(widths) - 1) + [last or pair]
    return " ".join(plan.replace("c", f"c{width}") for plan, width in zip(plans, widths, strict=True))


_CONV = (64, 128, 256, 512)
_VGG = (128, 256, 512)
_WIDE_VGG = (16, 32, 64)


def _conv_plans() -> dict[str, Plan]:
    forms = {"": ("c R c R M", "c256 R c256 R c"), "_BinAct": ("c B A c M B A", "c256 B A c256 B A c")}
    plans = {}
    for depth in (2, 4, 6, 8):
        for suffix, (pair, head) in forms.items():
            convs = _pairs(_CONV[: depth // 2], pair)
            plans[f"Conv{depth}{suffix}"] = Plan(convs, head)
            plans[f"Conv{depth}Wide{suffix}"] = Plan(convs, head, wide=True)
    return plans


PLANS: dict[str, Plan] = {
    "FC": Plan("", "c300 R c100 R c"),
    **_conv_plans(),
    "Conv8Wide_BinAct_ReLU": Plan(_pairs(_CONV, "c A c M B R A", "c A c M B R"), "c256 A c256 B R c", wide=True),
    "Conv8Wide_BinAct_ReLU_Final_Act": Plan(_pairs(_CONV, "c B A c M B A"), "c256 B A c256 B R c", wide=True),
    "VGG_Small": Plan("c128 R c128 M B c256 c256 M B c512 c512 M B R", "c"),
    "VGG_Small_BinAct": Plan(_pairs(_VGG, "c A c M B A", "c A c M B R"), "c"),
    "VGG_Small_noReLU_BinAct": Plan(_pairs(_VGG, "c A c M B A", "c A c M B R"), "c"),
    "VGG_Small_bn_BinAct": Plan(_pairs(_VGG, "c B A c M B A", "c B A c M B R"), "c"),
    "Wide_VGG_Small": Plan(_pairs(_WIDE_VGG, "c B A c M B A", "c B A c M B R"), "c", wide=True),
    "Wide_VGG_Small_132": Plan(_pairs(_WIDE_VGG, "c B R c M B R"), "c", wide=True),
}


class PlainNet(nn.Module):
    """A network built from a `Plan`. Input [B, channels, H, W] float; output [B, num_classes] logits.

    Raises:
        ValueError: the input is too small for the network's pools.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        num_classes: int,
        channels: int,
        input_size: tuple[int, int],
        width_mult: float,
        norm: Callable[[int], nn.Module],
        binary: Callable[[], nn.Module],
        head_bias: bool = False,
    ) -> None:
        super().__init__()
        pools = plan.convs.split().count("M")
        height, width = (side >> pools for side in input_size)
        if not height or not width:
            size = f"{input_size[0]}x{input_size[1]}"
            raise ValueError(f"input size {size}: the network halves it {pools} times, so it needs {1 << pools} or more")

        def layer(token: str, in_width: int, kernel: int) -> nn.Module:
            if token[0] == "c":
                out_width = int(int(token[1:]) * width_mult) if token[1:] else num_classes
                bias = head_bias and token == "c"
                return nn.Conv2d(in_width, out_width, kernel, padding=kernel // 2, bias=bias)
            return {"M": lambda: nn.MaxPool2d(2), "B": lambda: norm(in_width), "R": nn.ReLU, "A": binary}[token]()

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
