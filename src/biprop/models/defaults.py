"""The default networks for tables and series, and a vision transformer.

Tickets hold their operations, as those of a user's own network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import UserError
from .vit import ViT

Shape = tuple[int, ...]


class MLP(nn.Sequential):
    """A multilayer perceptron for tables: hidden layers with batch norm and ReLU.

    Takes [B, features] floats, gives [B, classes] logits.

    Args:
        features: numbers of a row.
        classes: number of logits.
        width: of the hidden layers.
        depth: number of hidden layers.
    """

    def __init__(self, features: int, classes: int, width: int = 256, depth: int = 2) -> None:
        layers: list[nn.Module] = []
        for inputs in [features, *[width] * (depth - 1)]:
            layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        super().__init__(*layers, nn.Linear(width, classes, bias=False))


class SeriesCNN(nn.Module):
    """A convolutional network for series: blocks of convolution, batch norm and ReLU, of which all
    but the first halve the length, and a mean over the length.

    Takes [B, channels, length] floats, gives [B, classes] logits.

    Args:
        channels: of the series.
        classes: number of logits.
        width: channels of the first block; each block has twice as many as the one before.
        depth: number of blocks.
    """

    def __init__(self, channels: int, classes: int, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        inputs = channels
        for number in range(depth):
            outputs = width * 2**number
            stride = 2 if number else 1
            convolution = nn.Conv1d(inputs, outputs, 5, stride, padding=2, bias=False)
            blocks += [convolution, nn.BatchNorm1d(outputs), nn.ReLU()]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of series [B, channels, length]."""
        logits: Tensor = self.head(self.blocks(x).mean(2))
        return logits


_Make = Callable[..., nn.Module]
_MAKERS: dict[str, tuple[_Make, int, str]] = {
    "MLP": (lambda shape, classes, **more: MLP(shape[0], classes, **more), 1, "tables"),
    "SeriesCNN": (lambda shape, classes, **more: SeriesCNN(shape[0], classes, **more), 2, "series"),
    "ViT": (lambda shape, classes, **more: ViT(shape[0], shape[1:], classes, **more), 3, "images"),
}
"""Name -> what makes the network of (shape of a sample, classes, arguments); the number of axes of
a sample; what such samples are called."""
_MOST = {"width": 4096, "depth": 8}
_MOST_OF_VIT = {"width": 4096, "depth": 64, "patch": 64}
"""Arguments -> their greatest values."""


def build(name: str, arguments: Mapping[str, Any] | None, num_classes: int, shape: Shape) -> Any:
    """A network of this package whose operations tickets hold, dense, with PyTorch's weights.

    Args:
        name: of `config.DEFAULT_NETWORKS`.
        arguments: width and depth; of ViT also patch.
        num_classes: of the data.
        shape: of a sample.

    Raises:
        UserError: data of another kind, or other arguments.
    """
    make, axes, kind = _MAKERS[name]
    if len(shape) != axes:
        raise UserError(
            f"arch = {name}: is for {kind}, and samples of the data have the shape {list(shape)}"
        )
    most = _MOST_OF_VIT if name == "ViT" else _MOST
    for key, value in (arguments or {}).items():
        if type(value) is not int or not 1 <= value <= most.get(key, 0):
            ranges = ", ".join(f"{known}=1 .. {limit}" for known, limit in most.items())
            raise UserError(f"--arch-args {key}={value}: {name} takes {ranges}")
    try:
        return make(shape, num_classes, **(arguments or {}))
    except ValueError as e:
        raise UserError(f"arch = {name}: {e}") from None


def name_for(shape: Shape) -> str | None:
    """The default network for samples of this shape: for images one of the registry; None for what
    has more axes.
    """
    return {1: "MLP", 2: "SeriesCNN", 3: "Wide_VGG_Small_132"}.get(len(shape))
