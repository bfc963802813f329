"""Blur corruptions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .filters import Draws, disk_kernel, mirrored, motion, smooth, weighted_taps, zoom_matrix


def defocus_blur(images: Tensor, shape: tuple[float, float], draws: Draws) -> Tensor:
    """A disk with a soft edge; beyond the border is the mirror image without the border's pixel.

    `shape` is (radius, sigma of the edge) in pixels.
    """
    weights = disk_kernel(*shape)
    reach = len(weights) // 2
    height, width = images.shape[2:]
    nonzero = np.argwhere(weights)
    places = np.broadcast_to(nonzero - reach, (len(images), *nonzero.shape))
    blurred = weighted_taps(mirrored(images, reach), places, weights[tuple(nonzero.T)])
    return blurred[:, :, reach : reach + height, reach : reach + width]


def gaussian_blur(images: Tensor, sigma: float, draws: Draws) -> Tensor:
    """A Gaussian of `sigma` pixels."""
    return smooth(images, sigma)


def glass_blur(images: Tensor, parameters: tuple[float, int, int], draws: Draws) -> Tensor:
    """Smoothed, pixels moved about, smoothed again.

    Pixels are taken from the last to the first, except near the border, and each gets the value
    that a pixel nearby has by then. The authors meant to swap the two; their program copies, and
    that is what the published images show.

    `parameters` is (sigma, largest distance along an axis, rounds).
    """
    sigma, reach, rounds = parameters
    height, width = images.shape[2:]
    values = smooth(images, sigma).to(torch.uint8).flatten(2)
    is_inner = torch.zeros(height, width, dtype=torch.bool, device=images.device)
    is_inner[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = True
    for _ in range(rounds if is_inner.any() else 0):
        source = _final_sources(_drawn_sources(is_inner, reach, draws), is_inner.flatten())
        values = values.gather(2, source[:, None].expand_as(values))
    return smooth(values.view_as(images), sigma)


def _drawn_sources(is_inner: Tensor, reach: int, draws: Draws) -> Tensor:
    """Which pixel each pixel takes its value from: places in C order, [B, H W] int64.

    Args:
        is_inner: [H, W], a rectangle: the other pixels keep their values.
        reach: largest distance along an axis.
        draws: of the images.
    """
    height, width = is_inner.shape
    rows, columns = int(is_inner.any(1).sum()), int(is_inner.any(0).sum())
    steps = draws.uniform(rows, columns, 2) * (2 * reach)
    steps = steps.floor_().long() - reach  # [B, h, w, (x, y)]
    place = torch.arange(height * width, device=is_inner.device).view(height, width)
    source = place.repeat(len(steps), 1, 1)
    source[:, is_inner] += (steps[..., 0] + width * steps[..., 1]).flatten(1)
    return source.flatten(1)


def _final_sources(source: Tensor, is_inner: Tensor) -> Tensor:
    """Which pixel each value comes from in the end, [B, H W].

    A source further on has its new value by then: that one's source counts. Doubling the stride
    ends after a few rounds.
    """
    place = torch.arange(source.shape[1], device=source.device)
    follow = (source > place) & is_inner[source]
    while follow.any():
        further = source.gather(1, source)
        goes_on = follow.gather(1, source)
        source = torch.where(follow, further, source)
        follow = follow & goes_on
    return source


def motion_blur(images: Tensor, shape: tuple[float, float], draws: Draws) -> Tensor:
    """Half a Gaussian along a line within 45 degrees of the horizontal.

    `shape` is (radius, sigma) in pixels.
    """
    angles = -45 + 90 * draws.uniform()
    return motion(images, *shape, angles)


def zoom_blur(images: Tensor, factors: tuple[float, float], draws: Draws) -> Tensor:
    """The mean of the image and its enlargements, the first of which is the image once more.

    `factors` is (end, step) of the enlargements from 1 on. They are computed as the authors do it:
    by rounding, the end is one of them now and then.
    """
    zooms = tuple(np.arange(1, *factors).tolist())
    rows, columns = (zoom_matrix(size, zooms, images.device) for size in images.shape[2:])
    all_rows = rows.transpose(1, 2).flatten(1)  # [H, H Z]
    all_columns = columns.transpose(0, 1).flatten(0, 1).T  # [W, Z W]
    total = images.double()
    # Few images at a time: the enlargements of many leave the caches.
    for part in total.split(max(1, 2**13 // images.shape[2:].numel())):
        wide = torch.matmul(part, all_columns)  # [b, C, H, Z W], read as [b, C, H Z, W]
        part += torch.matmul(all_rows, wide.view(*part.shape[:2], -1, part.shape[3]))
    return total.div_(len(zooms) + 1)
