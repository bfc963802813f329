"""The published extra corruptions, for validation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import WHOLE, Draws, replicated, smooth, to_grey, windows
from .weather import normal_layer


def saturate(images: Tensor, parameters: tuple[float, float], draws: Draws) -> Tensor:
    """Another saturation: all distances to the largest channel grow in proportion.

    Grey turns to red, as the authors' does. `parameters` is (factor, shift) of the saturation.
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
    """Drops of water or mud.

    `parameters` is (mean, standard deviation and sigma of a layer of noise, threshold above which
    it is a drop, strength, mud instead of water).
    """
    mean, deviation, sigma, threshold, strength, mud = parameters
    layer = smooth(normal_layer(images, mean, deviation, draws), sigma)
    colour = _colour(MUD if mud else WATER, images)
    if mud:
        mask = smooth(layer > threshold, strength)
        mask.masked_fill_(mask < 0.8, 0)
        return images * (1 - mask) + colour * mask
    liquid = layer.masked_fill_(layer < threshold, 0).mul_(255).floor_()
    liquid.remainder_(256)  # bytes that wrap around, as published
    drops = liquid * _relief(liquid)
    brightest = drops.amax((2, 3), keepdim=True).clamp_(min=1)
    return images + colour * (drops * (strength / brightest))


def _colour(colour: tuple[int, int, int], images: Tensor) -> Tensor:
    """[1, C, 1, 1] float64, in the channels of the images."""
    values = torch.tensor(colour, dtype=torch.float64, device=images.device).view(1, 3, 1, 1)
    return values if images.shape[1] == 3 else to_grey(values)


def _relief(liquid: Tensor) -> Tensor:
    """How drops reflect light: distances to their edges, embossed.

    Args:
        liquid: [B, 1, H, W] float64, whole grey levels.

    Returns:
        [B, 1, H, W] float64, whole grey levels.
    """
    distance = _distances(_edges(liquid)).clamp_(max=20)
    distance = _equalize((windows(distance).sum(0) / 9 + 1e-9).floor_())
    kernel = distance.new_tensor([-2, -1, 0, -1, 1, 1, 0, 1, 2]).view(9, 1, 1, 1, 1)
    embossed = (windows(distance) * kernel).sum(0).clamp_(0, 255)
    return (windows(embossed).sum(0) / 9).round_()


def _edges(image: Tensor) -> Tensor:
    """Canny's edge pixels (IEEE PAMI, 1986), thresholds 50 and 150, as OpenCV finds them.

    Args:
        image: [B, 1, H, W] grey levels.

    Returns:
        [B, 1, H, W] bool.
    """
    along, down = _gradients(image)
    size = along.abs() + down.abs()
    weak = _is_ridge(along, down, size) & (size > 50)
    edges = weak & (size > 150)
    while True:
        grown = (F.max_pool2d(edges.float(), 3, 1, 1) > 0) & weak
        if torch.equal(grown, edges):
            return edges
        edges = grown


def _gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel's gradients along rows and down columns; beyond the border is the border's pixel."""
    padded = replicated(image, 1)
    height, width = image.shape[2:]
    left, middle, right = (padded[..., j : j + width] for j in range(3))
    difference, total = right - left, left + 2 * middle + right
    rows = [slice(i, i + height) for i in range(3)]
    top, centre, bottom = (difference[:, :, row] for row in rows)
    return top + 2 * centre + bottom, total[:, :, rows[2]] - total[:, :, rows[0]]


def _is_ridge(along: Tensor, down: Tensor, size: Tensor) -> Tensor:
    """Whether a gradient of `size` is the largest of its neighbours in its own direction.

    Directions are rounded to 45 degrees. The larger of two equal neighbours is the second, as in
    OpenCV.
    """
    near = windows(size, border=0.0)  # three by three, row by row
    tangent = math.tan(math.pi / 8)
    is_flat = down.abs() < tangent * along.abs()
    is_steep = down.abs() > (2 + tangent) * along.abs()
    is_falling = along * down < 0
    in_row = (size > near[3]) & (size >= near[5])
    in_column = (size > near[1]) & (size >= near[7])
    rising = (size > near[0]) & (size > near[8])
    falling = (size > near[2]) & (size > near[6])
    diagonal = torch.where(is_falling, falling, rising)
    return torch.where(is_flat, in_row, torch.where(is_steep, in_column, diagonal))


def _distances(edges: Tensor, limit: int = 20) -> Tensor:
    """From each pixel to the nearest edge pixel, where below the limit, [B, 1, H, W] float64.

    These are OpenCV's distances, sums of steps within 5 x 5 pixels.
    """
    lengths = edges.new_tensor(_STEPS, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    distance = torch.zeros(edges.shape, dtype=torch.float64, device=edges.device)
    distance.masked_fill_(~edges, _FAR)
    for _ in range(limit):
        nearer = (windows(distance, 2, _FAR) + lengths).amin(0)
        if torch.equal(nearer, distance):
            break
        distance = nearer
    return distance


_FAR = 1e4
_STRAIGHT, _DIAGONAL, _KNIGHT, _NONE = 1.0, 1.4, 2.1969, math.inf
_STEPS = [
    *(_NONE, _KNIGHT, _NONE, _KNIGHT, _NONE),
    *(_KNIGHT, _DIAGONAL, _STRAIGHT, _DIAGONAL, _KNIGHT),
    *(_NONE, _STRAIGHT, 0.0, _STRAIGHT, _NONE),
    *(_KNIGHT, _DIAGONAL, _STRAIGHT, _DIAGONAL, _KNIGHT),
    *(_NONE, _KNIGHT, _NONE, _KNIGHT, _NONE),
]
"""Lengths of the steps to the pixels around, row by row."""


def _equalize(image: Tensor) -> Tensor:
    """OpenCV's equalisation of the histogram of each image [B, 1, H, W] of whole grey levels.

    An image of a single level stays as it is.
    """
    flat = image.flatten(1).long()
    histogram = torch.zeros(len(flat), 256, dtype=torch.float64, device=flat.device)
    histogram.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
    lowest = histogram.gather(1, flat.amin(1, keepdim=True))
    rest = flat.shape[1] - lowest
    table = ((histogram.cumsum(1) - lowest) * (255 / rest.clamp(min=1))).clamp_(min=0).round_()
    return torch.where(rest > 0, table.gather(1, flat), flat.double()).view_as(image)
