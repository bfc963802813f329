"""The published extra corruptions, for validation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import WHOLE, Draws, smooth, to_grey, windows
from .weather import normal_layer


def saturate(images: Tensor, parameters: tuple[float, float], draws: Draws) -> Tensor:
    """Another saturation: all distances to the largest channel grow in proportion.

    Grey turns to red, as the authors' does.
    """
    factor, shift = parameters
    value = images.amax(1, keepdim=True).float()
    below = value - images
    largest = below.amax(1, keepdim=True)
    saturation = (largest * (factor / value.clamp(min=1)) + shift).clamp_(0, 1) * value
    red = torch.tensor([0.0, 1, 1][: images.shape[1]], device=images.device)[:, None, None]
    return value - torch.where(largest > 0, below * saturation / largest, red * saturation) + WHOLE


WATER, MUD = (175, 238, 238), (63, 42, 20)


def spatter(images: Tensor, parameters: tuple[float, ...], draws: Draws) -> Tensor:
    """Drops of water or mud."""
    mean, deviation, sigma, threshold, strength, mud = parameters
    layer = smooth(normal_layer(images, mean, deviation, draws), sigma)
    colour = torch.tensor(MUD if mud else WATER, dtype=torch.float64, device=images.device).view(
        1, 3, 1, 1
    )
    colour = colour if images.shape[1] == 3 else to_grey(colour)
    if mud:
        mask = smooth(layer > threshold, strength)
        mask.masked_fill_(mask < 0.8, 0)
        return images * (1 - mask) + colour * mask
    liquid = (
        layer.masked_fill_(layer < threshold, 0).mul_(255).floor_().remainder_(256)
    )  # bytes that wrap around, as published
    drops = liquid * _relief(liquid)
    return images + colour * (drops * (strength / drops.amax((2, 3), keepdim=True).clamp_(min=1)))


def _relief(liquid: Tensor) -> Tensor:
    """How drops catch light: distances to their edges, embossed.

    [B, 1, H, W], whole grey levels in float64.
    """
    distance = _distances(_edges(liquid)).clamp_(max=20)
    distance = _equalize((windows(distance).sum(0) / 9 + 1e-9).floor_())
    kernel = distance.new_tensor([-2, -1, 0, -1, 1, 1, 0, 1, 2]).view(9, 1, 1, 1, 1)
    embossed = (windows(distance) * kernel).sum(0).clamp_(0, 255)
    return (windows(embossed).sum(0) / 9).round_()


def _edges(levels: Tensor) -> Tensor:
    """Canny's edge pixels, thresholds 50 and 150, with OpenCV's gradients and its sum of their
    absolute values.
    """
    height, width = levels.shape[2:]
    y, x = (
        torch.arange(-1, size + 1, device=levels.device).clamp_(0, size - 1)
        for size in (height, width)
    )
    window = [
        [
            levels.index_select(2, y[i : i + height]).index_select(3, x[j : j + width])
            for j in range(3)
        ]
        for i in range(3)
    ]  # the border's pixel goes on
    along = sum(w * (window[i][2] - window[i][0]) for i, w in enumerate((1, 2, 1)))
    down = sum(w * (window[2][j] - window[0][j]) for j, w in enumerate((1, 2, 1)))
    assert isinstance(along, Tensor) and isinstance(down, Tensor)
    size = along.abs() + down.abs()
    near = windows(size, border=0.0)
    tangent = math.tan(math.pi / 8)
    flat, steep = down.abs() < tangent * along.abs(), down.abs() > (2 + tangent) * along.abs()
    falling = along * down < 0
    # The larger of two equal neighbours along the gradient is the second, as in OpenCV.
    ridge = torch.where(
        flat,
        (size > near[3]) & (size >= near[5]),
        torch.where(
            steep,
            (size > near[1]) & (size >= near[7]),
            torch.where(
                falling, (size > near[2]) & (size > near[6]), (size > near[0]) & (size > near[8])
            ),
        ),
    )
    weak = ridge & (size > 50)
    edges = weak & (size > 150)
    while True:
        grown = (F.max_pool2d(edges.float(), 3, 1, 1) > 0) & weak
        if torch.equal(grown, edges):
            return edges
        edges = grown


def _distances(edges: Tensor, limit: int = 20) -> Tensor:
    """From each pixel to the nearest edge pixel, where below the limit: OpenCV's, which steps over
    5 x 5 pixels.
    """
    step = {(0, 0): 0.0, (0, 1): 1.0, (1, 1): 1.4, (1, 2): 2.1969}
    lengths = [
        step.get((min(abs(y), abs(x)), max(abs(y), abs(x))), math.inf)
        for y in range(-2, 3)
        for x in range(-2, 3)
    ]
    add = torch.tensor(lengths, dtype=torch.float64, device=edges.device).view(-1, 1, 1, 1, 1)
    distance = torch.zeros(edges.shape, dtype=torch.float64, device=edges.device).masked_fill_(
        ~edges, 1e4
    )
    for _ in range(limit):
        nearer = (windows(distance, 2, 1e4) + add).amin(0)
        if torch.equal(nearer, distance):
            break
        distance = nearer
    return distance


def _equalize(levels: Tensor) -> Tensor:
    """OpenCV's equalisation of the histogram of each image; one of a single level stays."""
    flat = levels.flatten(1).long()
    histogram = torch.zeros(len(flat), 256, dtype=torch.float64, device=flat.device)
    histogram.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
    lowest = histogram.gather(1, flat.amin(1, keepdim=True))
    rest = flat.shape[1] - lowest
    table = ((histogram.cumsum(1) - lowest) * (255 / rest.clamp(min=1))).clamp_(min=0).round_()
    return torch.where(rest > 0, table.gather(1, flat), flat.double()).view_as(levels)
