"""Blur corruptions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .filters import Draws, disk_kernel, mirror_matrix, motion, smooth, weighted_taps, zoom_matrix


def defocus_blur(images: Tensor, shape: tuple[float, float], draws: Draws) -> Tensor:
    """A disk with a soft edge; the image goes on as its mirror image without the border's pixel."""
    weights = disk_kernel(*shape)
    reach = len(weights) // 2
    at = np.argwhere(weights)
    height, width = images.shape[2:]
    rows, columns = (mirror_matrix(size, reach, images.device) for size in (height, width))
    framed = images.index_select(2, rows).index_select(3, columns)
    places = np.broadcast_to(at, (len(images), *at.shape))
    return weighted_taps(framed, places - reach, weights[tuple(at.T)])[
        :, :, reach : reach + height, reach : reach + width
    ]


def gaussian_blur(images: Tensor, sigma: float, draws: Draws) -> Tensor:
    """A Gaussian."""
    return smooth(images, sigma)


def glass_blur(images: Tensor, parameters: tuple[float, int, int], draws: Draws) -> Tensor:
    """Smoothed, pixels moved about, smoothed again.

    Pixels are taken from the last to the first, but for a frame, and each gets the value that a
    pixel nearby has by then. The authors meant to swap the two; their program copies, and that is
    what the published images show.
    """
    sigma, reach, rounds = parameters
    height, width = images.shape[2:]
    levels = smooth(images, sigma).to(torch.uint8).flatten(2)
    place = torch.arange(height * width, device=images.device).view(height, width)
    inner = place[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1]
    for _ in range(rounds if inner.numel() else 0):
        steps = (
            draws.uniform(*inner.shape, 2) * (2 * reach)
        ).floor_().long() - reach  # [B, h, w, (x, y)]
        source = place.repeat(len(images), 1, 1)
        source[:, reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] += (
            steps[..., 0] + width * steps[..., 1]
        )
        source = source.flatten(1)
        # A source further on has its new value by then: go on to that one's source. Doubling the
        # stride ends after a few rounds.
        moved = torch.zeros(height, width, dtype=torch.bool, device=images.device)
        moved[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = True
        moved = moved.flatten()
        follow = (source > place.flatten()) & moved[source]
        while follow.any():
            source, follow = (
                torch.where(follow, source.gather(1, source), source),
                follow & follow.gather(1, source),
            )
        levels = levels.gather(2, source[:, None].expand_as(levels))
    return smooth(levels.view_as(images), sigma)


def motion_blur(images: Tensor, shape: tuple[float, float], draws: Draws) -> Tensor:
    """Half a Gaussian along a line within 45 degrees of the horizontal."""
    return motion(images, *shape, -45 + 90 * draws.uniform())


def zoom_blur(images: Tensor, factors: tuple[float, float], draws: Draws) -> Tensor:
    """The mean of the image and its enlargements, the first of which is the image once more."""
    zooms = tuple(
        np.arange(1, *factors).tolist()
    )  # with the authors' rounding: the end is in it now and then
    rows, columns = (zoom_matrix(size, zooms, images.device) for size in images.shape[2:])
    together = rows.transpose(1, 2).flatten(1)  # [H, H Z]
    apart = columns.transpose(0, 1).flatten(0, 1).T  # [W, Z W]
    total = images.double()
    few = max(
        1, 2**13 // images.shape[2:].numel()
    )  # the enlargements of many images leave the caches
    for part in total.split(few):
        enlarged = torch.matmul(part, apart)  # [b, C, H, Z W], read as [b, C, H Z, W]
        part += torch.matmul(together, enlarged.view(*part.shape[:2], -1, part.shape[3]))
    return total.div_(len(zooms) + 1)
