"""What several corruptions share: random draws, exact linear maps, convolutions, resampling."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

PIXELS = 2**18  # at a time: what is computed in between stays small
WHOLE = 1e-3  # added before rounding down where an exact result may come out as 6.99999


class Draws:
    """Random numbers of images by number: Philox (see `rng`; numpy promises that its streams of
    bits never change), 16 bits each.

    Every call is a stream of its own. In it, image n has the blocks from n times its length on:
    consecutive images are one call.
    """

    def __init__(self, key: int, numbers: Sequence[int], device: torch.device) -> None:
        self._key, self._numbers, self._device, self._calls = key, numbers, device, 0
        jumps = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
        self._runs = list(zip([0, *jumps], [*jumps, len(numbers)], strict=True))

    def bits(self, *shape: int) -> Tensor:
        """[B, *shape] int32, uniform in 0 .. 65535."""
        count = math.prod(shape)
        blocks = -(-count // 16)  # of 256 bits
        words = np.empty((len(self._numbers), 4 * blocks), np.uint64)
        self._calls += 1
        for start, end in self._runs:
            generator = np.random.Philox(
                key=self._key, counter=self._numbers[start] * blocks | self._calls << 192
            )
            words[start:end] = generator.random_raw((end - start) * 4 * blocks).reshape(
                end - start, -1
            )
        bits = words.astype("<u8", copy=False).view("<u2")[:, :count]
        return torch.from_numpy(bits).to(self._device).int().view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """[B, *shape] float64 in (0, 1), odd multiples of 2^-17."""
        return (self.bits(*shape) + 0.5).double() / 65536

    def normal(self, *shape: int) -> Tensor:
        """[B, *shape] float32: the 65,536 quantiles of the normal distribution, up to 4.2 standard
        deviations.
        """
        bits = self.bits(*shape)
        return _quantiles(bits.device).index_select(0, bits.flatten()).view_as(bits)


@functools.lru_cache(8)
def _quantiles(device: torch.device) -> Tensor:
    quantiles: Tensor = torch.special.ndtri(
        (torch.arange(65536, dtype=torch.float64) + 0.5) / 65536
    )
    return quantiles.float().to(device)


# Linear maps of rows and columns, by matrices [to, from]. Sums are exact, see above.


def _exact(matrix: Array, device: torch.device) -> Tensor:
    """Weights in multiples of 2^-16 that keep the sums of the rows, which are 1: flat areas stay as
    they are.
    """
    whole = np.rint(matrix * 65536)
    whole[np.arange(len(whole)), whole.argmax(1)] += np.rint(matrix.sum(1) * 65536) - whole.sum(1)
    return torch.from_numpy(whole / 65536).to(device)


def apply_maps(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """[..., H, W] to [..., len(rows), len(columns)] float64."""
    return torch.matmul(rows, torch.matmul(images.double(), columns.T))


@functools.lru_cache(64)
def _gaussian(
    size: int, sigma: float, device: torch.device, truncate: float = 4, mirror: bool = False
) -> Tensor:
    """The Gaussian filter of SciPy, [size, size]; outside is the border's pixel, or the mirror
    image.
    """
    radius = int(truncate * sigma + 0.5)
    steps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    taken = np.arange(size)[:, None] + steps
    taken = (
        (size - 0.5 - np.abs(taken % (2 * size) - (size - 0.5))).astype(np.int64)
        if mirror
        else taken.clip(0, size - 1)
    )
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], taken), weights / weights.sum())
    return _exact(matrix, device)


def smooth(images: Tensor, sigma: float, truncate: float = 4, mirror: bool = False) -> Tensor:
    height, width = images.shape[-2:]
    return apply_maps(
        images,
        *(_gaussian(size, sigma, images.device, truncate, mirror) for size in (height, width)),
    )


@functools.lru_cache(64)
def zoom_matrix(size: int, factors: tuple[float, ...], device: torch.device) -> Tensor:
    """The middle of a row enlarged, bilinear, by several factors: [size, len(factors), size]. As
    SciPy, first to first and last to last pixel of what is cut out.
    """
    matrices = np.zeros((len(factors), size, size))
    for matrix, factor in zip(matrices, factors, strict=True):
        inner = math.ceil(size / factor)
        outer = round(inner * factor)
        place = (np.arange(size) + (outer - size) // 2) * (inner - 1) / max(1, outer - 1)
        first = np.floor(place).astype(np.int64)
        i, top = np.arange(size), (size - inner) // 2
        matrix[i, top + first] = 1 - (place - first)
        matrix[i, top + np.minimum(first + 1, inner - 1)] += place - first
    flat = _exact(matrices.reshape(-1, size), device)
    return flat.view(len(factors), size, size).transpose(0, 1).contiguous()


@functools.lru_cache(64)
def box_matrix(size: int, to: int, device: torch.device) -> Tensor:
    """Pillow's box filter from `size` to `to` pixels."""
    scale = size / to
    centre = (np.arange(to)[:, None] + 0.5) * scale
    reach = max(scale, 1) / 2
    inside = np.arange(size) - centre + 0.5
    taken = ((inside > -reach) & (inside <= reach)).astype(np.float64)
    return _exact(taken / taken.sum(1, keepdims=True), device)


def weighted_taps(images: Tensor, places: Array, weights: Array) -> Tensor:
    """Sum of shifted copies, each image with its own shifts; outside is the border's pixel.

    Args:
        images: [B, C, H, W], whole numbers in 0 .. 255.
        places: [B, n, 2] int64, (y, x) of each weight; fastest where images with equal places stand
            side by side.
        weights: [n], none negative; their sum, about 1, is kept.

    Returns:
        [B, C, H, W] float64.
    """
    height, width = images.shape[2:]
    whole = np.rint(weights * 2**22).astype(np.int64)
    whole[whole.argmax()] += round(weights.sum() * 2**22) - whole.sum()
    places, whole = places[:, whole > 0], whole[whole > 0]
    (top, left), (bottom, right) = places.min((0, 1)), places.max((0, 1))
    y, x = (
        torch.arange(a, b, device=images.device)
        for a, b in ((top, height + bottom), (left, width + right))
    )
    framed = (
        images.int().index_select(2, y.clamp(0, height - 1)).index_select(3, x.clamp(0, width - 1))
    )
    total = torch.zeros(images.shape, dtype=torch.int32, device=images.device)
    for i, weight in enumerate(whole.tolist()):
        changes = np.flatnonzero((places[1:, i] != places[:-1, i]).any(1)) + 1
        for start, end in zip([0, *changes], [*changes, len(places)], strict=True):
            down, along = places[start, i] - (top, left)
            total[start:end].add_(
                framed[start:end, :, down : down + height, along : along + width], alpha=weight
            )
    return total.double() / 2**22


def to_grey(images: Tensor) -> Tensor:
    """Luminance, [B, 1, H, W]; an image of one channel is its own."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    grey: Tensor = red * 0.299 + green * 0.587 + blue * 0.114
    return grey


def mirror_matrix(size: int, reach: int, device: torch.device) -> Tensor:
    """Which of `size` pixels stands where, from -reach to size + reach: 2 1 | 0 1 2 | 1 0."""
    period = max(1, 2 * size - 2)
    place = torch.arange(-reach, size + reach, device=device) % period
    return torch.minimum(place, period - place)


@functools.cache
def disk_kernel(radius: float, sigma: float) -> Array:
    """The authors' disk, [n, n]: on whole pixels, then smoothed by 3 (radius above 8: 5) pixels of
    a Gaussian.

    They draw it on 17 x 17 pixels, above 8 on 2 radius + 1, and smooth with mirrored borders. A
    disk of radius 8 or more touches the border there: its weights sum to 1.013 (radius 8) or 1.011
    (10), and the image becomes that much lighter.
    """
    reach, soft = (8, 1) if radius <= 8 else (math.floor(radius), 2)
    steps = np.arange(-reach, reach + 1)
    disk = (steps**2 + steps[:, None] ** 2 <= radius**2).astype(np.float64)
    gaussian = np.exp(-(np.arange(-soft, soft + 1) ** 2) / (2 * sigma**2))
    gaussian /= gaussian.sum()
    smooth = np.pad(disk / disk.sum(), soft, mode="reflect")
    for _ in range(2):  # along the rows, then along the columns
        smooth = np.array([np.convolve(row, gaussian, "valid") for row in smooth]).T
    around = int(smooth.any(0).argmax())  # pixels of border without weight
    return smooth[around : len(smooth) - around, around : len(smooth) - around]


def motion(images: Tensor, radius: float, sigma: float, angles: Tensor) -> Tensor:
    """ImageMagick's motion blur: 2 radius + 1 weights from the pixel on, along a line of whole
    pixels, rounded down.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    order = angles.cpu().numpy().argsort(kind="stable")  # neighbours share most of their lines
    directions = np.deg2rad(angles.cpu().numpy()[order])
    places = np.ceil(
        np.stack([np.sin(directions), np.cos(directions)], 1)[:, None] * steps[:, None] - 0.5
    ).astype(np.int64)
    blurred = weighted_taps(
        images.index_select(0, torch.from_numpy(order).to(images.device)),
        places,
        weights / weights.sum(),
    )
    return blurred.floor_().index_select(0, torch.from_numpy(order.argsort()).to(images.device))


def windows(images: Tensor, reach: int = 1, border: float | None = None) -> Tensor:
    """[n, B, 1, H, W]: each pixel's neighbours, row by row; outside is the mirror image or
    `border`.
    """
    height, width = images.shape[2:]
    if border is None:
        rows, columns = (mirror_matrix(size, reach, images.device) for size in (height, width))
        framed = images.index_select(2, rows).index_select(3, columns)
    else:
        framed = F.pad(images, (reach,) * 4, value=border)
    steps = range(2 * reach + 1)
    return torch.stack([framed[:, :, y : y + height, x : x + width] for y in steps for x in steps])
