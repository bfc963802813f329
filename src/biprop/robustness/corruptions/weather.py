"""Weather corruptions."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import Array, Draws, apply_maps, motion, to_grey, zoom_matrix


def snow(images: Tensor, parameters: tuple[float, ...], draws: Draws) -> Tensor:
    """Flakes that fall, and a paler image.

    `parameters` is (mean, standard deviation and zoom of a layer of noise, threshold above which it
    is a flake, radius and sigma of its motion, share of the image).
    """
    mean, deviation, zoom, threshold, radius, sigma, share = parameters
    layer = normal_layer(images, mean, deviation, draws)
    if zoom != 1:
        matrices = (zoom_matrix(size, (zoom,), images.device) for size in images.shape[2:])
        layer = apply_maps(layer, *(matrix[:, 0] for matrix in matrices))
    flakes = layer.masked_fill_(layer < threshold, 0).clamp_(0, 1).mul_(255).floor_()
    flakes = motion(flakes, radius, sigma, -135 + 90 * draws.uniform()).float()
    clean = images.float()
    pale = torch.maximum(clean, to_grey(clean) * 1.5 + 127.5)
    return clean.mul_(share).add_(pale.mul_(1 - share)).add_(flakes).add_(flakes.flip(2, 3))


def normal_layer(images: Tensor, mean: float, deviation: float, draws: Draws) -> Tensor:
    """Normal noise, [B, 1, H, W] float64, in multiples of 2^-16: sums of them are exact."""
    noise = draws.normal(1, *images.shape[2:]).double()
    return (noise * (deviation * 65536) + mean * 65536).round_() / 65536


FROST = (
    ((186, 184, 194), 9.0, 16.0),
    ((211, 211, 222), 9.0, 12.5),
    ((144, 156, 168), 15.0, 22.0),
    ((60, 141, 160), 18.5, 9.0),
    ((78, 85, 97), 14.0, 23.0),
)
"""Mean colour, and standard deviations of the coarse and the fine structure, of five textures of
frost.
"""


@functools.lru_cache(4)
def _frost(scale: int, device: torch.device) -> Tensor:
    """[5, 3, S, S] uint8, periodic.

    At scale 1, for images of 32 pixels, coarse structures fall off with the frequency to the power
    of 1.5, and the fine ones are almost white; larger images see the same, enlarged.
    """
    generator = np.random.Generator(np.random.Philox(key=2019))
    textures = np.stack([_texture(generator, *parameters) for parameters in FROST])
    tensor = torch.from_numpy(textures.round().clip(0, 255)).to(torch.float32)
    if scale > 1:
        padded = F.pad(tensor, (1, 1, 1, 1), "circular")
        tensor = F.interpolate(padded, scale_factor=scale, mode="bicubic").clamp_(0, 255)
    return tensor.round_().to(torch.uint8).to(device)


def _texture(
    generator: np.random.Generator, colour: tuple[int, int, int], coarse: float, fine: float
) -> Array:
    """[3, S, S] grey levels, of the mean colour and standard deviations as in `FROST`."""
    size = 256
    structure = np.zeros((size, size))
    for deviation, power in ((coarse, 1.5), (fine, 0.2)):
        layer = _coloured_noise(generator, size, power)
        structure += deviation * layer / layer.std()
    texture: Array = np.array(colour)[:, None, None] + structure
    return texture


def _coloured_noise(generator: np.random.Generator, size: int, power: float) -> Array:
    """[size, size], periodic; amplitudes fall off with the frequency to a power, from 4 on."""
    vertical, horizontal = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)
    frequency = np.hypot(vertical, horizontal) * size
    white = np.fft.rfft2(generator.standard_normal((size, size)))
    spectrum = white / np.maximum(frequency, 4) ** power * (frequency > 0)
    return np.fft.irfft2(spectrum, (size, size))


def frost(images: Tensor, shares: tuple[float, float], draws: Draws) -> Tensor:
    """A texture of frost over the image.

    The authors' are photographs; these are noise with their colours and spectrum. `shares` is
    (share of the image, share of the frost).
    """
    of_image, of_frost = shares
    height, width = images.shape[2:]
    textures = _frost(_scale(min(height, width)), images.device)
    layer = _crops(textures, height, width, draws)
    layer = layer if images.shape[1] == 3 else to_grey(layer)
    return images * of_image + layer * of_frost


def _scale(shorter_side: int) -> int:
    """Of the textures."""
    if shorter_side < 45:
        return 1
    return 2 if shorter_side < 120 else 5


def _crops(textures: Tensor, height: int, width: int, draws: Draws) -> Tensor:
    """A random crop of a random texture for each image, [B, 3, height, width] float32.

    Args:
        textures: [kinds, 3, S, S], periodic.
        height, width: of the crops.
        draws: of the images.
    """
    kinds, channels, side, _ = textures.shape
    limits = torch.tensor([[kinds], [side], [side]], device=textures.device)
    kind, top, left = (draws.uniform(3).T * limits).long()
    y, x = (_periodic(start, length, side) for start, length in ((top, height), (left, width)))
    planes = kind[:, None] * channels + torch.arange(channels, device=textures.device)  # [B, 3]
    rows = planes[:, :, None] * side + y[:, None]  # [B, 3, H]
    places = rows[..., None] * side + x[:, None, None]  # [B, 3, H, W]
    crops = textures.flatten().index_select(0, places.flatten())
    return crops.view(-1, channels, height, width).float()


def _periodic(start: Tensor, length: int, period: int) -> Tensor:
    """[B, length]: places from `start` [B] on."""
    return (start[:, None] + torch.arange(length, device=start.device)) % period


def fog(images: Tensor, parameters: tuple[float, float], draws: Draws) -> Tensor:
    """Plasma clouds, and the image darkened to leave room for them.

    `parameters` is (amount of fog, decay of the clouds' amplitudes).
    """
    amount, decay = parameters
    height, width = images.shape[2:]
    size = 1 << (max(height, width) - 1).bit_length()
    clouds = _plasma(size, decay, draws)[:, None, :height, :width] * (255 * amount)
    brightest = images.amax((1, 2, 3), keepdim=True).double()
    return clouds.add(images).mul_(brightest / (brightest + 255 * amount))


def _plasma(size: int, decay: float, draws: Draws) -> Tensor:
    """The diamond-square algorithm: [B, size, size] float64, each from 0 to 1.

    It is periodic, and its first point is 0.

    Args:
        size: a power of two.
        decay: of the amplitude from one step to the next, of half the length.
        draws: of the images.
    """
    uniform = draws.uniform(max(1, size * size - 1)) * 2 - 1
    plasma = uniform.new_zeros(len(uniform), size, size)
    step, amplitude, used = size, 100.0, 0
    while step >= 2:
        cells = size // step
        noise = uniform[:, used : used + 3 * cells**2].view(-1, 3, cells, cells)
        _refine(plasma, step, noise * amplitude**2)
        step, amplitude, used = step // 2, amplitude / decay, used + 3 * cells**2
    plasma -= plasma.amin((1, 2), keepdim=True)
    return plasma.div_(plasma.amax((1, 2), keepdim=True).clamp_(min=1e-9))


def _refine(plasma: Tensor, step: int, noise: Tensor) -> None:
    """Fill in the points between those of a grid: the centres of its cells, then their edges.

    Args:
        plasma: [B, size, size], known at every `step` pixels.
        step: of the grid.
        noise: [B, 3, cells, cells], of the centres, the upper and the left edges.
    """
    half = step // 2
    corners = plasma[:, ::step, ::step]
    right_corners, lower_corners = corners.roll(-1, 2), corners.roll(-1, 1)
    pairs = corners + lower_corners
    centres = (pairs + pairs.roll(-1, 2)) / 4 + noise[:, 0]
    upper_centres, left_centres = centres.roll(1, 1), centres.roll(1, 2)
    upper = (centres + upper_centres + corners + right_corners) / 4 + noise[:, 1]
    left = (centres + left_centres + corners + lower_corners) / 4 + noise[:, 2]
    plasma[:, half::step, half::step] = centres
    plasma[:, ::step, half::step] = upper
    plasma[:, half::step, ::step] = left


def brightness(images: Tensor, amount: float, draws: Draws) -> Tensor:
    """More value by `amount`, in hue, saturation, value: all channels grow in proportion."""
    value = images.amax(1, keepdim=True).float()
    brighter = (value + 255 * amount).clamp_(max=255)
    return torch.where(value > 0, images * brighter / value, brighter)
