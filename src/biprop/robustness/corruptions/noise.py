"""Noise corruptions."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from .filters import Draws

# The corruptions: (images [B, C, H, W] uint8, parameters, draws) -> [B, C, H, W] in grey levels,
# any dtype, not yet clipped.


def gaussian_noise(images: Tensor, sigma: float, draws: Draws) -> Tensor:
    """Normal noise of standard deviation `sigma`."""
    return draws.normal(*images.shape[1:]).mul_(255 * sigma).add_(images)


def speckle_noise(images: Tensor, sigma: float, draws: Draws) -> Tensor:
    """Normal noise in proportion to the grey level, of standard deviation `sigma` of it."""
    return draws.normal(*images.shape[1:]).mul_(sigma).add_(1).mul_(images)


def shot_noise(images: Tensor, photons: float, draws: Draws) -> Tensor:
    """Poisson noise, where a white pixel is `photons` on average."""
    bits = draws.bits(*images.shape[1:])
    bits += images.int() << 16
    return _counted(photons, images.device).index_select(0, bits.flatten()).view_as(images)


@functools.lru_cache(2)
def _counted(photons: float, device: torch.device) -> Tensor:
    """[256 * 65536] uint8: for each grey level the 65,536 quantiles of its Poisson distribution, as
    grey levels.
    """
    logarithms = torch.lgamma(torch.arange(1.0, 3 * photons + 60, dtype=torch.float64)).numpy()
    counts = np.arange(len(logarithms))
    greys = np.minimum(counts * 255 // photons, 255).astype(np.uint8)
    table = np.zeros((256, 65536), np.uint8)
    for grey in range(1, 256):
        mean = grey / 255 * photons
        cumulative = np.exp(counts * math.log(mean) - mean - logarithms).cumsum()
        ends = np.rint(65536 * cumulative.clip(0, 1)).astype(np.int64)
        ends[-1] = 65536
        table[grey] = np.repeat(greys, np.diff(ends, prepend=0))
    return torch.from_numpy(table.ravel()).to(device)


def impulse_noise(images: Tensor, share: float, draws: Draws) -> Tensor:
    """Salt and pepper, half each, on a `share` of the values of single channels."""
    bits = draws.bits(*images.shape[1:])
    salt, pepper = (round(part * share * 65536) for part in (0.5, 1))
    return images.masked_fill(bits < pepper, 0).masked_fill_(bits < salt, 255)
