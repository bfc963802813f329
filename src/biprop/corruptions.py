"""The corruptions of the -C test sets, on batches of images: 19 of them at five severities.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019 (arXiv
1903.12261). Definitions are those of the authors' programs, without OpenCV, SciPy, scikit-image or ImageMagick; `severities` has
the parameters. One thing is our own: frost, which adds crops of photographs there, adds crops of textures made here, with the
colours, the contrast and the spectrum of the published results.

An image's result follows from itself, the seed, the name, the severity and its number alone, bit by bit, whoever else is in
the batch. Random numbers are therefore counted, not streamed; and sums, whose order depends on the size of a batch, are exact:
their weights are whole multiples of 2^-16 (2^-22 in integers), so that double precision holds every product and partial sum.
Rejected: single precision, which some devices compute with ten bits (TF32), and a convolution per image, where shifted copies of
images sorted by direction are ten times faster.

Shapes: B images, C channels (1 or 3), H x W pixels. Grey levels run from 0 to 255; parameters are of pixels in [0, 1].
"""

from __future__ import annotations

import functools
import io
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .errors import UserError, did_you_mean
from .severities import EXTRA, NAMES, SEVERITIES, parameters

Array = NDArray[Any]

_PIXELS = 2**18  # at a time: what is computed in between stays small
_WHOLE = 1e-3  # added before rounding down where an exact result may come out as 6.99999


def corrupt(images: Tensor, name: str, severity: int, seed: int = 0, numbers: Sequence[int] | None = None) -> Tensor:
    """Corrupt a batch of images, on their device.

    Args:
        images: [B, C, H, W] uint8, C is 1 or 3.
        name: one of `severities.NAMES` or `EXTRA`.
        severity: 1 to 5; the shorter side of the images chooses the table (`severities.TABLES`).
        seed: of everything random, 0 .. 2**64 - 1.
        numbers: [B], not negative: the images' numbers in their data set; 0 .. B - 1 if not given. The same image, seed and
            number give the same result in any batch.

    Returns:
        [B, C, H, W] uint8.

    Raises:
        UserError: no such name, or no such severity.
        ValueError: images or numbers of another type or shape, or a seed out of range.
    """
    if name not in _FUNCTIONS:
        raise UserError(f"corruption {name!r}: not one of {', '.join(NAMES + EXTRA)}{did_you_mean(name, NAMES + EXTRA)}")
    if severity not in SEVERITIES:
        raise UserError(f"severity = {severity!r}: must be 1, 2, 3, 4 or 5")
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ValueError(f"images are {images.dtype} {list(images.shape)}: must be uint8 [B, 1 or 3, H, W]")
    numbers = range(len(images)) if numbers is None else [operator.index(number) for number in numbers]
    if len(numbers) != len(images) or min(numbers, default=0) < 0:
        raise ValueError(f"numbers: must be {len(images)} (one an image), none negative")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed = {seed}: must be in 0 .. 2**64 - 1")
    height, width = images.shape[2:]
    chosen = parameters(name, severity, min(height, width))
    key = seed | (NAMES + EXTRA).index(name) << 64 | severity << 96
    corrupted = torch.empty_like(images, memory_format=torch.contiguous_format)
    many = max(1, _PIXELS // (height * width))
    for start in range(0, len(images), many):
        part = images[start : start + many].contiguous()
        result = _FUNCTIONS[name](part, chosen, Draws(key, numbers[start : start + many], images.device))
        corrupted[start : start + many] = result if result.dtype == torch.uint8 else result.clamp_(0, 255)  # rounds down
    return corrupted


class Draws:
    """Random numbers of images by number: Philox (see `rng`; numpy promises that its streams of bits never change), 16 bits each.

    Every call is a stream of its own. In it, image n has the blocks from n times its length on: consecutive images are one call.
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
            generator = np.random.Philox(key=self._key, counter=self._numbers[start] * blocks | self._calls << 192)
            words[start:end] = generator.random_raw((end - start) * 4 * blocks).reshape(end - start, -1)
        bits = words.astype("<u8", copy=False).view("<u2")[:, :count]
        return torch.from_numpy(bits).to(self._device).int().view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """[B, *shape] float64 in (0, 1), odd multiples of 2^-17."""
        return (self.bits(*shape) + 0.5).double() / 65536

    def normal(self, *shape: int) -> Tensor:
        """[B, *shape] float32: the 65,536 quantiles of the normal distribution, up to 4.2 standard deviations."""
        bits = self.bits(*shape)
        return _quantiles(bits.device).index_select(0, bits.flatten()).view_as(bits)


@functools.lru_cache(8)
def _quantiles(device: torch.device) -> Tensor:
    quantiles: Tensor = torch.special.ndtri((torch.arange(65536, dtype=torch.float64) + 0.5) / 65536)
    return quantiles.float().to(device)


# Linear maps of rows and columns, by matrices [to, from]. Sums are exact, see above.


def _exact(matrix: Array, device: torch.device) -> Tensor:
    """Weights in multiples of 2^-16 that keep the sums of the rows, which are 1: flat areas stay as they are."""
    whole = np.rint(matrix * 65536)
    whole[np.arange(len(whole)), whole.argmax(1)] += np.rint(matrix.sum(1) * 65536) - whole.sum(1)
    return torch.from_numpy(whole / 65536).to(device)


def _map(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """[..., H, W] to [..., len(rows), len(columns)] float64."""
    return torch.matmul(rows, torch.matmul(images.double(), columns.T))


@functools.lru_cache(64)
def _gaussian(size: int, sigma: float, device: torch.device, truncate: float = 4, mirror: bool = False) -> Tensor:
    """The Gaussian filter of SciPy, [size, size]; outside is the border's pixel, or the mirror image."""
    radius = int(truncate * sigma + 0.5)
    steps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    taken = np.arange(size)[:, None] + steps
    taken = (size - 0.5 - np.abs(taken % (2 * size) - (size - 0.5))).astype(np.int64) if mirror else taken.clip(0, size - 1)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], taken), weights / weights.sum())
    return _exact(matrix, device)


def _smooth(images: Tensor, sigma: float, truncate: float = 4, mirror: bool = False) -> Tensor:
    height, width = images.shape[-2:]
    return _map(images, *(_gaussian(size, sigma, images.device, truncate, mirror) for size in (height, width)))


@functools.lru_cache(64)
def _zoom(size: int, factors: tuple[float, ...], device: torch.device) -> Tensor:
    """The middle of a row enlarged, bilinear, by several factors: [size, len(factors), size]. As SciPy, first to first and last
    to last pixel of what is cut out."""
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
def _boxes(size: int, to: int, device: torch.device) -> Tensor:
    """Pillow's box filter from `size` to `to` pixels."""
    scale = size / to
    centre = (np.arange(to)[:, None] + 0.5) * scale
    reach = max(scale, 1) / 2
    inside = np.arange(size) - centre + 0.5
    taken = ((inside > -reach) & (inside <= reach)).astype(np.float64)
    return _exact(taken / taken.sum(1, keepdims=True), device)


def _taps(images: Tensor, places: Array, weights: Array) -> Tensor:
    """Sum of shifted copies, each image with its own shifts; outside is the border's pixel.

    Args:
        images: [B, C, H, W], whole numbers in 0 .. 255.
        places: [B, n, 2] int64, (y, x) of each weight; fastest where images with equal places stand side by side.
        weights: [n], none negative; their sum, about 1, is kept.

    Returns:
        [B, C, H, W] float64.
    """
    height, width = images.shape[2:]
    whole = np.rint(weights * 2**22).astype(np.int64)
    whole[whole.argmax()] += round(weights.sum() * 2**22) - whole.sum()
    places, whole = places[:, whole > 0], whole[whole > 0]
    (top, left), (bottom, right) = places.min((0, 1)), places.max((0, 1))
    y, x = (torch.arange(a, b, device=images.device) for a, b in ((top, height + bottom), (left, width + right)))
    framed = images.int().index_select(2, y.clamp(0, height - 1)).index_select(3, x.clamp(0, width - 1))
    total = torch.zeros(images.shape, dtype=torch.int32, device=images.device)
    for i, weight in enumerate(whole.tolist()):
        changes = np.flatnonzero((places[1:, i] != places[:-1, i]).any(1)) + 1
        for start, end in zip([0, *changes], [*changes, len(places)], strict=True):
            down, along = places[start, i] - (top, left)
            total[start:end].add_(framed[start:end, :, down : down + height, along : along + width], alpha=weight)
    return total.double() / 2**22


def _grey(images: Tensor) -> Tensor:
    """Luminance, [B, 1, H, W]; an image of one channel is its own."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    grey: Tensor = red * 0.299 + green * 0.587 + blue * 0.114
    return grey


# The corruptions: (images [B, C, H, W] uint8, parameters, draws) -> [B, C, H, W] in grey levels, any dtype, not yet clipped.


def gaussian_noise(images: Tensor, sigma: float, draws: Draws) -> Tensor:
    """Normal noise."""
    return draws.normal(*images.shape[1:]).mul_(255 * sigma).add_(images)


def speckle_noise(images: Tensor, sigma: float, draws: Draws) -> Tensor:
    """Normal noise in proportion to the grey level."""
    return draws.normal(*images.shape[1:]).mul_(sigma).add_(1).mul_(images)


def shot_noise(images: Tensor, photons: float, draws: Draws) -> Tensor:
    """Poisson noise: what a white pixel's `photons` leave when counted."""
    bits = draws.bits(*images.shape[1:])
    bits += images.int() << 16
    return _counted(photons, images.device).index_select(0, bits.flatten()).view_as(images)


@functools.lru_cache(2)
def _counted(photons: float, device: torch.device) -> Tensor:
    """[256 * 65536] uint8: for each grey level the 65,536 quantiles of its Poisson distribution, as grey levels."""
    logarithms = torch.lgamma(torch.arange(1.0, 3 * photons + 60, dtype=torch.float64)).numpy()
    counts = np.arange(len(logarithms))
    levels = np.minimum(counts * 255 // photons, 255).astype(np.uint8)
    table = np.zeros((256, 65536), np.uint8)
    for level in range(1, 256):
        mean = level / 255 * photons
        below = np.exp(counts * math.log(mean) - mean - logarithms).cumsum()
        ends = np.rint(65536 * below.clip(0, 1)).astype(np.int64)
        ends[-1] = 65536
        table[level] = np.repeat(levels, np.diff(ends, prepend=0))
    return torch.from_numpy(table.ravel()).to(device)


def impulse_noise(images: Tensor, share: float, draws: Draws) -> Tensor:
    """Salt and pepper, half each, on values of single channels."""
    bits = draws.bits(*images.shape[1:])
    salt, pepper = (round(part * share * 65536) for part in (0.5, 1))
    return images.masked_fill(bits < pepper, 0).masked_fill_(bits < salt, 255)


def defocus_blur(images: Tensor, shape: tuple[float, float], draws: Draws) -> Tensor:
    """A disk with a soft edge; the image goes on as its mirror image without the border's pixel."""
    weights = _disk(*shape)
    reach = len(weights) // 2
    at = np.argwhere(weights)
    height, width = images.shape[2:]
    rows, columns = (_mirrored(size, reach, images.device) for size in (height, width))
    framed = images.index_select(2, rows).index_select(3, columns)
    places = np.broadcast_to(at, (len(images), *at.shape))
    return _taps(framed, places - reach, weights[tuple(at.T)])[:, :, reach : reach + height, reach : reach + width]


def _mirrored(size: int, reach: int, device: torch.device) -> Tensor:
    """Which of `size` pixels stands where, from -reach to size + reach: 2 1 | 0 1 2 | 1 0."""
    period = max(1, 2 * size - 2)
    place = torch.arange(-reach, size + reach, device=device) % period
    return torch.minimum(place, period - place)


@functools.cache
def _disk(radius: float, sigma: float) -> Array:
    """The authors' disk, [n, n]: on whole pixels, then smoothed by 3 (radius above 8: 5) pixels of a Gaussian.

    They draw it on 17 x 17 pixels, above 8 on 2 radius + 1, and smooth with mirrored borders. A disk of radius 8 or more touches
    the border there: its weights sum to 1.013 (radius 8) or 1.011 (10), and the image becomes that much lighter.
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


def gaussian_blur(images: Tensor, sigma: float, draws: Draws) -> Tensor:
    """A Gaussian."""
    return _smooth(images, sigma)


def glass_blur(images: Tensor, parameters: tuple[float, int, int], draws: Draws) -> Tensor:
    """Smoothed, pixels moved about, smoothed again.

    Pixels are taken from the last to the first, but for a frame, and each gets the value that a pixel nearby has by then. The
    authors meant to swap the two; their program copies, and that is what the published images show.
    """
    sigma, reach, rounds = parameters
    height, width = images.shape[2:]
    levels = _smooth(images, sigma).to(torch.uint8).flatten(2)
    place = torch.arange(height * width, device=images.device).view(height, width)
    inner = place[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1]
    for _ in range(rounds if inner.numel() else 0):
        steps = (draws.uniform(*inner.shape, 2) * (2 * reach)).floor_().long() - reach  # [B, h, w, (x, y)]
        source = place.repeat(len(images), 1, 1)
        source[:, reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] += steps[..., 0] + width * steps[..., 1]
        source = source.flatten(1)
        # A source further on has its new value by then: go on to that one's source. Doubling the stride ends after a few rounds.
        moved = torch.zeros(height, width, dtype=torch.bool, device=images.device)
        moved[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = True
        moved = moved.flatten()
        follow = (source > place.flatten()) & moved[source]
        while follow.any():
            source, follow = torch.where(follow, source.gather(1, source), source), follow & follow.gather(1, source)
        levels = levels.gather(2, source[:, None].expand_as(levels))
    return _smooth(levels.view_as(images), sigma)


def motion_blur(images: Tensor, shape: tuple[float, float], draws: Draws) -> Tensor:
    """Half a Gaussian along a line within 45 degrees of the horizontal."""
    return _moved(images, *shape, -45 + 90 * draws.uniform())


def _moved(images: Tensor, radius: float, sigma: float, angles: Tensor) -> Tensor:
    """ImageMagick's motion blur: 2 radius + 1 weights from the pixel on, along a line of whole pixels, rounded down."""
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    order = angles.cpu().numpy().argsort(kind="stable")  # neighbours share most of their lines
    directions = np.deg2rad(angles.cpu().numpy()[order])
    places = np.ceil(np.stack([np.sin(directions), np.cos(directions)], 1)[:, None] * steps[:, None] - 0.5).astype(np.int64)
    blurred = _taps(images.index_select(0, torch.from_numpy(order).to(images.device)), places, weights / weights.sum())
    return blurred.floor_().index_select(0, torch.from_numpy(order.argsort()).to(images.device))


def zoom_blur(images: Tensor, factors: tuple[float, float], draws: Draws) -> Tensor:
    """The mean of the image and its enlargements, the first of which is the image once more."""
    zooms = tuple(np.arange(1, *factors).tolist())  # with the authors' rounding: the end is in it now and then
    rows, columns = (_zoom(size, zooms, images.device) for size in images.shape[2:])
    together = rows.transpose(1, 2).flatten(1)  # [H, H Z]
    apart = columns.transpose(0, 1).flatten(0, 1).T  # [W, Z W]
    total = images.double()
    few = max(1, 2**13 // images.shape[2:].numel())  # the enlargements of many images leave the caches
    for part in total.split(few):
        enlarged = torch.matmul(part, apart)  # [b, C, H, Z W], read as [b, C, H Z, W]
        part += torch.matmul(together, enlarged.view(*part.shape[:2], -1, part.shape[3]))
    return total.div_(len(zooms) + 1)


def snow(images: Tensor, parameters: tuple[float, ...], draws: Draws) -> Tensor:
    """Flakes that fall, and a paler picture."""
    mean, deviation, zoom, threshold, radius, sigma, share = parameters
    layer = _normal_layer(images, mean, deviation, draws)
    if zoom != 1:
        layer = _map(layer, *(_zoom(size, (zoom,), images.device)[:, 0] for size in images.shape[2:]))
    flakes = layer.masked_fill_(layer < threshold, 0).clamp_(0, 1).mul_(255).floor_()
    flakes = _moved(flakes, radius, sigma, -135 + 90 * draws.uniform()).float()
    clean = images.float()
    pale = torch.maximum(clean, _grey(clean) * 1.5 + 127.5)
    return clean.mul_(share).add_(pale.mul_(1 - share)).add_(flakes).add_(flakes.flip(2, 3))


def _normal_layer(images: Tensor, mean: float, deviation: float, draws: Draws) -> Tensor:
    """[B, 1, H, W] float64, in multiples of 2^-16: sums of them are exact."""
    return (draws.normal(1, *images.shape[2:]).double() * (deviation * 65536) + mean * 65536).round_() / 65536


FROST = (
    ((186, 184, 194), 9.0, 16.0),
    ((211, 211, 222), 9.0, 12.5),
    ((144, 156, 168), 15.0, 22.0),
    ((60, 141, 160), 18.5, 9.0),
    ((78, 85, 97), 14.0, 23.0),
)
"""Mean colour, and standard deviations of the coarse and the fine structure, of five textures of frost."""


@functools.lru_cache(4)
def _frost(scale: int, device: torch.device) -> Tensor:
    """[5, 3, S, S] uint8, periodic. At scale 1, for images of 32 pixels, coarse structures fall off with the frequency to the
    power of 1.5, and the fine ones are almost white; larger images see the same, enlarged."""
    size = 256
    generator = np.random.Generator(np.random.Philox(key=2019))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)) * size
    textures = np.empty((len(FROST), 3, size, size))
    for texture, (colour, coarse, fine) in zip(textures, FROST, strict=True):
        total = np.zeros((size, size))
        for amount, power in ((coarse, 1.5), (fine, 0.2)):
            white = np.fft.rfft2(generator.standard_normal((size, size)))
            layer = np.fft.irfft2(white / np.maximum(frequency, 4) ** power * (frequency > 0), (size, size))
            total += amount * layer / layer.std()
        texture[:] = np.array(colour)[:, None, None] + total
    tensor = torch.from_numpy(textures.round().clip(0, 255)).to(torch.float32)
    if scale > 1:
        tensor = F.interpolate(F.pad(tensor, (1, 1, 1, 1), "circular"), scale_factor=scale, mode="bicubic").clamp_(0, 255)
    return tensor.round_().to(torch.uint8).to(device)


def frost(images: Tensor, shares: tuple[float, float], draws: Draws) -> Tensor:
    """A texture of frost over the image. The authors' are photographs; these are noise with their colours and spectrum."""
    channels, height, width = images.shape[1:]
    textures = _frost(1 if min(height, width) < 45 else 2 if min(height, width) < 120 else 5, images.device)
    side = textures.shape[-1]
    kind, top, left = (draws.uniform(3).T * torch.tensor([[len(FROST)], [side], [side]], device=images.device)).long()
    y = (top[:, None] + torch.arange(height, device=images.device)) % side
    x = (left[:, None] + torch.arange(width, device=images.device)) % side
    at = (kind[:, None] * 3 + torch.arange(3, device=images.device))[:, :, None] * side + y[:, None]  # [B, 3, H]
    layer = textures.flatten().index_select(0, (at[..., None] * side + x[:, None, None]).flatten())
    layer = layer.view(-1, 3, height, width).float()
    return images * shares[0] + (layer if channels == 3 else _grey(layer)) * shares[1]


def fog(images: Tensor, parameters: tuple[float, float], draws: Draws) -> Tensor:
    """Plasma clouds, and the picture darkened to leave room for them."""
    amount, decay = parameters
    height, width = images.shape[2:]
    size = 1 << (max(height, width) - 1).bit_length()
    clouds = _plasma(size, decay, draws)[:, None, :height, :width] * (255 * amount)
    brightest = images.amax((1, 2, 3), keepdim=True).double()
    return clouds.add(images).mul_(brightest / (brightest + 255 * amount))


def _plasma(size: int, decay: float, draws: Draws) -> Tensor:
    """Diamond-square: [B, size, size] float64, each from 0 to 1. It is periodic, and its first point is 0."""
    uniform = draws.uniform(max(1, size * size - 1)) * 2 - 1
    plasma = uniform.new_zeros(len(uniform), size, size)
    step, amplitude, used = size, 100.0, 0
    while step >= 2:
        half, many = step // 2, size // step
        noise = uniform[:, used : used + 3 * many * many].view(-1, 3, many, many) * amplitude**2
        corners = plasma[:, ::step, ::step]
        across = corners + corners.roll(-1, 1)
        centres = (across + across.roll(-1, 2)) / 4 + noise[:, 0]
        plasma[:, half::step, half::step] = centres
        top = (centres + centres.roll(1, 1) + corners + corners.roll(-1, 2)) / 4 + noise[:, 1]
        left = (centres + centres.roll(1, 2) + corners + corners.roll(-1, 1)) / 4 + noise[:, 2]
        plasma[:, ::step, half::step], plasma[:, half::step, ::step] = top, left
        step, amplitude, used = half, amplitude / decay, used + 3 * many * many
    plasma -= plasma.amin((1, 2), keepdim=True)
    return plasma.div_(plasma.amax((1, 2), keepdim=True).clamp_(min=1e-9))


def brightness(images: Tensor, amount: float, draws: Draws) -> Tensor:
    """More value, in hue, saturation, value: all channels grow in proportion."""
    value = images.amax(1, keepdim=True).float()
    brighter = (value + 255 * amount).clamp_(max=255)
    return torch.where(value > 0, images * brighter / value, brighter)


def saturate(images: Tensor, parameters: tuple[float, float], draws: Draws) -> Tensor:
    """Another saturation: all distances to the largest channel grow in proportion. Grey turns to red, as the authors' does."""
    factor, shift = parameters
    value = images.amax(1, keepdim=True).float()
    below = value - images
    largest = below.amax(1, keepdim=True)
    saturation = (largest * (factor / value.clamp(min=1)) + shift).clamp_(0, 1) * value
    red = torch.tensor([0.0, 1, 1][: images.shape[1]], device=images.device)[:, None, None]
    return value - torch.where(largest > 0, below * saturation / largest, red * saturation) + _WHOLE


def contrast(images: Tensor, factor: float, draws: Draws) -> Tensor:
    """Each channel nearer to its mean."""
    mean = images.sum((2, 3), keepdim=True).double() / images.shape[2:].numel()
    return (images - mean).mul_(factor).add_(mean).add_(_WHOLE)


def elastic_transform(images: Tensor, parameters: tuple[float, float, float], draws: Draws) -> Tensor:
    """An affine map that moves three corners at random, then smooth displacements of pixels; bilinear both times."""
    height, width = images.shape[2:]
    length, sigma, corner = (min(height, width) * part for part in parameters)
    moves = (draws.uniform(3, 2) * 2 - 1).cpu().numpy() * corner
    middle, third = np.array([width // 2, height // 2]), min(height, width) // 3
    corners = middle + third * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = np.concatenate([corners + moves, np.ones((len(images), 3, 1))], 2)
    back = np.linalg.solve(moved, np.broadcast_to(corners.astype(np.float64), moves.shape))  # [B, (x, y, 1), (x, y)]
    maps = torch.from_numpy(back).to(images.device)[:, :, :, None, None]
    x, y = (torch.arange(size, dtype=torch.float64, device=images.device) for size in (width, height))
    places = (maps[:, 0] * x + maps[:, 1] * y[:, None]) + maps[:, 2]  # [B, (x, y), H, W]
    sizes = places.new_tensor([width, height])[:, None, None]
    grid = (places * 2 / (sizes - 1).clamp_(min=1) - 1).permute(0, 2, 3, 1).float()
    result = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=True)
    if length:
        steps = _smooth(draws.uniform(2, height, width) * 2 - 1, sigma, truncate=3, mirror=True) * length
        steps[:, 0] += x
        steps[:, 1] += y[:, None]
        grid = ((steps * 2 + 1) / sizes - 1).permute(0, 2, 3, 1).float()
        result = F.grid_sample(result, grid, padding_mode="reflection", align_corners=False)
    return result.add_(_WHOLE)


def pixelate(images: Tensor, factor: float, draws: Draws) -> Tensor:
    """Boxes: smaller, then as large as before, by Pillow's rules and roundings, columns before rows."""
    levels = images.double()
    for dimension in (3, 2):
        size = images.shape[dimension]
        small = max(1, int(size * factor))
        matrix = _boxes(size, small, images.device)
        levels = levels @ matrix.T if dimension == 3 else matrix @ levels
        levels.add_(0.5).floor_()
    for dimension in (2, 3):  # boxes larger than pixels: the nearest
        size, small = images.shape[dimension], levels.shape[dimension]
        nearest = ((torch.arange(size, dtype=torch.float64) + 0.5) * (small / size)).long()
        levels = levels.index_select(dimension, nearest.to(images.device))
    return levels


def jpeg_compression(images: Tensor, quality: int, draws: Draws) -> Tensor:
    """Written and read by Pillow, on the CPU."""
    pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    read = np.empty_like(pixels)
    for image, result in zip(pixels, read, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(buffer, "JPEG", quality=quality)
        result[:] = np.asarray(Image.open(buffer)).reshape(result.shape)
    return torch.from_numpy(read).permute(0, 3, 1, 2).to(images.device)


WATER, MUD = (175, 238, 238), (63, 42, 20)


def spatter(images: Tensor, parameters: tuple[float, ...], draws: Draws) -> Tensor:
    """Drops of water or mud."""
    mean, deviation, sigma, threshold, strength, mud = parameters
    layer = _smooth(_normal_layer(images, mean, deviation, draws), sigma)
    colour = torch.tensor(MUD if mud else WATER, dtype=torch.float64, device=images.device).view(1, 3, 1, 1)
    colour = colour if images.shape[1] == 3 else _grey(colour)
    if mud:
        mask = _smooth(layer > threshold, strength)
        mask.masked_fill_(mask < 0.8, 0)
        return images * (1 - mask) + colour * mask
    liquid = layer.masked_fill_(layer < threshold, 0).mul_(255).floor_().remainder_(256)  # bytes that wrap around, as published
    drops = liquid * _relief(liquid)
    return images + colour * (drops * (strength / drops.amax((2, 3), keepdim=True).clamp_(min=1)))


def _relief(liquid: Tensor) -> Tensor:
    """How drops catch light: distances to their edges, embossed. [B, 1, H, W], whole grey levels in float64."""
    distance = _distances(_edges(liquid)).clamp_(max=20)
    distance = _equalize((_windows(distance).sum(0) / 9 + 1e-9).floor_())
    kernel = distance.new_tensor([-2, -1, 0, -1, 1, 1, 0, 1, 2]).view(9, 1, 1, 1, 1)
    embossed = (_windows(distance) * kernel).sum(0).clamp_(0, 255)
    return (_windows(embossed).sum(0) / 9).round_()


def _windows(images: Tensor, reach: int = 1, border: float | None = None) -> Tensor:
    """[n, B, 1, H, W]: each pixel's neighbours, row by row; outside is the mirror image or `border`."""
    height, width = images.shape[2:]
    if border is None:
        rows, columns = (_mirrored(size, reach, images.device) for size in (height, width))
        framed = images.index_select(2, rows).index_select(3, columns)
    else:
        framed = F.pad(images, (reach,) * 4, value=border)
    steps = range(2 * reach + 1)
    return torch.stack([framed[:, :, y : y + height, x : x + width] for y in steps for x in steps])


def _edges(levels: Tensor) -> Tensor:
    """Canny's edge pixels, thresholds 50 and 150, with OpenCV's gradients and its sum of their absolute values."""
    height, width = levels.shape[2:]
    y, x = (torch.arange(-1, size + 1, device=levels.device).clamp_(0, size - 1) for size in (height, width))
    window = [
        [levels.index_select(2, y[i : i + height]).index_select(3, x[j : j + width]) for j in range(3)] for i in range(3)
    ]  # the border's pixel goes on
    along = sum(w * (window[i][2] - window[i][0]) for i, w in enumerate((1, 2, 1)))
    down = sum(w * (window[2][j] - window[0][j]) for j, w in enumerate((1, 2, 1)))
    assert isinstance(along, Tensor) and isinstance(down, Tensor)
    size = along.abs() + down.abs()
    near = _windows(size, border=0.0)
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
            torch.where(falling, (size > near[2]) & (size > near[6]), (size > near[0]) & (size > near[8])),
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
    """From each pixel to the nearest edge pixel, where below the limit: OpenCV's, which steps over 5 x 5 pixels."""
    step = {(0, 0): 0.0, (0, 1): 1.0, (1, 1): 1.4, (1, 2): 2.1969}
    lengths = [step.get((min(abs(y), abs(x)), max(abs(y), abs(x))), math.inf) for y in range(-2, 3) for x in range(-2, 3)]
    add = torch.tensor(lengths, dtype=torch.float64, device=edges.device).view(-1, 1, 1, 1, 1)
    distance = torch.zeros(edges.shape, dtype=torch.float64, device=edges.device).masked_fill_(~edges, 1e4)
    for _ in range(limit):
        nearer = (_windows(distance, 2, 1e4) + add).amin(0)
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


_FUNCTIONS: dict[str, Callable[[Tensor, Any, Draws], Tensor]] = {
    function.__name__: function
    for function in (
        gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, snow, frost, fog, brightness,
        contrast, elastic_transform, pixelate, jpeg_compression, speckle_noise, gaussian_blur, spatter, saturate,
    )
}  # fmt: skip
