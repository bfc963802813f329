"""What several corruptions share: random draws, exact linear maps, convolutions, resampling."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
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
    consecutive images are one call of the generator.

    Args:
        key: of the generator, 128 bits.
        numbers: of the images, [B].
        device: of the results.
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
            counter = self._numbers[start] * blocks | self._calls << 192
            generator = np.random.Philox(key=self._key, counter=counter)
            size = (end - start) * 4 * blocks
            words[start:end] = generator.random_raw(size).reshape(end - start, -1)
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
    """[65536] float32, of the normal distribution."""
    shares = (torch.arange(65536, dtype=torch.float64) + 0.5) / 65536
    quantiles: Tensor = torch.special.ndtri(shares)
    return quantiles.float().to(device)


# Linear maps of rows and columns, by matrices [to, from]. Sums are exact, see above.


def _exact(matrix: Array, device: torch.device) -> Tensor:
    """Weights [to, from] as multiples of 2^-16 that keep the sums of the rows.

    These sums are 1: flat areas stay as they are.
    """
    whole = np.rint(matrix * 65536)
    missing = np.rint(matrix.sum(1) * 65536) - whole.sum(1)
    whole[np.arange(len(whole)), whole.argmax(1)] += missing
    return torch.from_numpy(whole / 65536).to(device)


def apply_maps(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """[..., H, W] to [..., len(rows), len(columns)] float64."""
    return torch.matmul(rows, torch.matmul(images.double(), columns.T))


@functools.lru_cache(64)
def _gaussian(
    size: int, sigma: float, device: torch.device, truncate: float = 4, mirror: bool = False
) -> Tensor:
    """The Gaussian filter of SciPy, [size, size].

    Beyond the border is the border's pixel, or the mirror image.
    """
    radius = int(truncate * sigma + 0.5)
    steps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    rows = np.arange(size)[:, None]
    places = rows + steps
    if mirror:
        from_middle = np.abs(places % (2 * size) - (size - 0.5))
        columns = (size - 0.5 - from_middle).astype(np.int64)
    else:
        columns = places.clip(0, size - 1)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (rows, columns), weights / weights.sum())
    return _exact(matrix, device)


def smooth(images: Tensor, sigma: float, truncate: float = 4, mirror: bool = False) -> Tensor:
    """Images [..., H, W] through a Gaussian filter, float64.

    Args:
        images: of any dtype.
        sigma: in pixels.
        truncate: where the filter ends, in sigmas.
        mirror: whether the mirror image lies beyond the border, instead of the border's pixel.
    """
    height, width = images.shape[-2:]
    rows = _gaussian(height, sigma, images.device, truncate, mirror)
    columns = _gaussian(width, sigma, images.device, truncate, mirror)
    return apply_maps(images, rows, columns)


@functools.lru_cache(64)
def zoom_matrix(size: int, factors: tuple[float, ...], device: torch.device) -> Tensor:
    """The middle of a row enlarged, bilinear, by several factors: [size, len(factors), size].

    As in SciPy, the first pixel of the crop goes to the first of the result, and the last to the
    last.
    """
    matrices = np.concatenate([_zoom(size, factor) for factor in factors])
    flat = _exact(matrices, device)
    return flat.view(len(factors), size, size).transpose(0, 1).contiguous()


def _zoom(size: int, factor: float) -> Array:
    """[size, size] float64."""
    cropped = math.ceil(size / factor)
    enlarged = round(cropped * factor)
    margin = (enlarged - size) // 2  # of the result, which is cropped to the size again
    rows, top = np.arange(size), (size - cropped) // 2
    place = (rows + margin) * (cropped - 1) / max(1, enlarged - 1)
    first = np.floor(place).astype(np.int64)
    second = np.minimum(first + 1, cropped - 1)
    matrix = np.zeros((size, size))
    matrix[rows, top + first] = 1 - (place - first)
    matrix[rows, top + second] += place - first
    return matrix


@functools.lru_cache(64)
def box_matrix(size: int, to: int, device: torch.device) -> Tensor:
    """Pillow's box filter from `size` to `to` pixels, [to, size]."""
    scale = size / to
    centre = (np.arange(to)[:, None] + 0.5) * scale
    reach = max(scale, 1) / 2
    distance = np.arange(size) - centre + 0.5
    is_inside = ((distance > -reach) & (distance <= reach)).astype(np.float64)
    return _exact(is_inside / is_inside.sum(1, keepdims=True), device)


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
    whole = _whole_weights(weights)
    places, whole = places[:, whole > 0], whole[whole > 0]
    framed = _framed(images.int(), places.min((0, 1)), places.max((0, 1)))
    offsets = places - places.min((0, 1))
    total = torch.zeros(images.shape, dtype=torch.int32, device=images.device)
    for i, weight in enumerate(whole.tolist()):
        for start, end in _runs(offsets[:, i]):
            y, x = offsets[start, i]
            shifted = framed[start:end, :, y : y + height, x : x + width]
            total[start:end].add_(shifted, alpha=weight)
    return total.double() / 2**22


def _whole_weights(weights: Array) -> Array:
    """int64 multiples of 2^-22 with the sum of the weights."""
    whole: NDArray[np.int64] = np.rint(weights * 2**22).astype(np.int64)
    whole[whole.argmax()] += round(weights.sum() * 2**22) - whole.sum()
    return whole


def _framed(images: Tensor, lowest: Array, highest: Array) -> Tensor:
    """Images with the border's pixel around, as far as shifts from `lowest` to `highest` (y, x)
    reach.
    """
    for dimension, low, high in zip((2, 3), lowest, highest, strict=True):
        size = images.shape[dimension]
        places = torch.arange(low, size + high, device=images.device)
        images = images.index_select(dimension, places.clamp(0, size - 1))
    return images


def _runs(offsets: Array) -> Iterator[tuple[int, int]]:
    """(start, end) of neighbouring images with equal offsets [B, 2]."""
    changes = np.flatnonzero((offsets[1:] != offsets[:-1]).any(1)) + 1
    return zip([0, *changes], [*changes, len(offsets)], strict=True)


def to_grey(images: Tensor) -> Tensor:
    """Luminance [B, 1, H, W] of images [B, C, H, W]; an image of one channel is its own."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    grey: Tensor = red * 0.299 + green * 0.587 + blue * 0.114
    return grey


def mirror_indices(size: int, reach: int, device: torch.device) -> Tensor:
    """Which of `size` pixels stands where, from -reach to size + reach: 2 1 | 0 1 2 | 1 0."""
    period = max(1, 2 * size - 2)
    place = torch.arange(-reach, size + reach, device=device) % period
    return torch.minimum(place, period - place)


def mirrored(images: Tensor, reach: int) -> Tensor:
    """Images with `reach` pixels of their mirror image around, without the border's pixel twice."""
    rows, columns = (mirror_indices(size, reach, images.device) for size in images.shape[2:])
    return images.index_select(2, rows).index_select(3, columns)


def replicated(images: Tensor, reach: int) -> Tensor:
    """Images with the border's pixel `reach` times around."""
    return _framed(images, np.array([-reach, -reach]), np.array([reach, reach]))


@functools.cache
def disk_kernel(radius: float, sigma: float) -> Array:
    """The authors' disk, [n, n]: on whole pixels, then smoothed by 3 (radius above 8: 5) pixels of
    a Gaussian.

    They draw it on 17 x 17 pixels, above 8 on 2 radius + 1, and smooth with mirrored borders. A
    disk of radius 8 or more touches the border there: its weights sum to 1.013 (radius 8) or 1.011
    (10), and the image becomes that much lighter.
    """
    reach, soft = (8, 1) if radius <= 8 else (math.floor(radius), 2)
    disk = np.pad(_disk(radius, reach), soft, mode="reflect")
    steps = np.arange(-soft, soft + 1)
    gaussian = np.exp(-(steps**2) / (2 * sigma**2))
    gaussian /= gaussian.sum()
    for _ in range(2):  # along the rows, then along the columns
        disk = np.array([np.convolve(row, gaussian, "valid") for row in disk]).T
    border = int(disk.any(0).argmax())  # pixels around that have no weight
    inner = slice(border, len(disk) - border)
    return disk[inner, inner]


def _disk(radius: float, reach: int) -> Array:
    """[2 reach + 1, 2 reach + 1] float64: equal weights within the radius, whose sum is 1."""
    steps = np.arange(-reach, reach + 1)
    disk = (steps**2 + steps[:, None] ** 2 <= radius**2).astype(np.float64)
    weights: Array = disk / disk.sum()
    return weights


def motion(images: Tensor, radius: float, sigma: float, angles: Tensor) -> Tensor:
    """ImageMagick's motion blur: 2 radius + 1 weights from the pixel on, along a line of whole
    pixels, rounded down.

    Args:
        images: [B, C, H, W], whole numbers in 0 .. 255.
        radius, sigma: of the half Gaussian, in pixels.
        angles: [B] degrees.

    Returns:
        [B, C, H, W] float64.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    degrees = angles.cpu().numpy()
    order = degrees.argsort(kind="stable")  # neighbours share most of their lines
    ordered = images.index_select(0, torch.from_numpy(order).to(images.device))
    blurred = weighted_taps(ordered, _lines(degrees[order], steps), weights).floor_()
    return blurred.index_select(0, torch.from_numpy(order.argsort()).to(images.device))


def _lines(degrees: Array, steps: Array) -> Array:
    """[B, n, (y, x)] int64: the whole pixels at `steps` [n] along lines at angles [B]."""
    directions = np.deg2rad(degrees)
    vectors = np.stack([np.sin(directions), np.cos(directions)], 1)
    return np.ceil(vectors[:, None] * steps[:, None] - 0.5).astype(np.int64)


def windows(images: Tensor, reach: int = 1, border: float | None = None) -> Tensor:
    """Each pixel's neighbours, row by row.

    Args:
        images: [B, 1, H, W].
        reach: of the neighbourhood, (2 reach + 1)^2 pixels.
        border: the value beyond the border; None for the mirror image.

    Returns:
        [(2 reach + 1)^2, B, 1, H, W].
    """
    height, width = images.shape[2:]
    if border is None:
        framed = mirrored(images, reach)
    else:
        framed = F.pad(images, (reach,) * 4, value=border)
    steps = range(2 * reach + 1)
    return torch.stack([framed[:, :, y : y + height, x : x + width] for y in steps for x in steps])
