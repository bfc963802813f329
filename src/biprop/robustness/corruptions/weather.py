"""Weather corruptions."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import Draws, apply_maps, motion, to_grey, zoom_matrix


def snow(images: Tensor, parameters: tuple[float, ...], draws: Draws) -> Tensor:
    """Flakes that fall, and a paler picture."""
    mean, deviation, zoom, threshold, radius, sigma, share = parameters
    layer = normal_layer(images, mean, deviation, draws)
    if zoom != 1:
        layer = apply_maps(
            layer, *(zoom_matrix(size, (zoom,), images.device)[:, 0] for size in images.shape[2:])
        )
    flakes = layer.masked_fill_(layer < threshold, 0).clamp_(0, 1).mul_(255).floor_()
    flakes = motion(flakes, radius, sigma, -135 + 90 * draws.uniform()).float()
    clean = images.float()
    pale = torch.maximum(clean, to_grey(clean) * 1.5 + 127.5)
    return clean.mul_(share).add_(pale.mul_(1 - share)).add_(flakes).add_(flakes.flip(2, 3))


def normal_layer(images: Tensor, mean: float, deviation: float, draws: Draws) -> Tensor:
    """[B, 1, H, W] float64, in multiples of 2^-16: sums of them are exact."""
    return (
        draws.normal(1, *images.shape[2:]).double() * (deviation * 65536) + mean * 65536
    ).round_() / 65536


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
    """[5, 3, S, S] uint8, periodic. At scale 1, for images of 32 pixels, coarse structures fall off
    with the frequency to the power of 1.5, and the fine ones are almost white; larger images see
    the same, enlarged.
    """
    size = 256
    generator = np.random.Generator(np.random.Philox(key=2019))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)) * size
    textures = np.empty((len(FROST), 3, size, size))
    for texture, (colour, coarse, fine) in zip(textures, FROST, strict=True):
        total = np.zeros((size, size))
        for amount, power in ((coarse, 1.5), (fine, 0.2)):
            white = np.fft.rfft2(generator.standard_normal((size, size)))
            layer = np.fft.irfft2(
                white / np.maximum(frequency, 4) ** power * (frequency > 0), (size, size)
            )
            total += amount * layer / layer.std()
        texture[:] = np.array(colour)[:, None, None] + total
    tensor = torch.from_numpy(textures.round().clip(0, 255)).to(torch.float32)
    if scale > 1:
        tensor = F.interpolate(
            F.pad(tensor, (1, 1, 1, 1), "circular"), scale_factor=scale, mode="bicubic"
        ).clamp_(0, 255)
    return tensor.round_().to(torch.uint8).to(device)


def frost(images: Tensor, shares: tuple[float, float], draws: Draws) -> Tensor:
    """A texture of frost over the image.

    The authors' are photographs; these are noise with their colours and spectrum.
    """
    channels, height, width = images.shape[1:]
    textures = _frost(
        1 if min(height, width) < 45 else 2 if min(height, width) < 120 else 5, images.device
    )
    side = textures.shape[-1]
    kind, top, left = (
        draws.uniform(3).T * torch.tensor([[len(FROST)], [side], [side]], device=images.device)
    ).long()
    y = (top[:, None] + torch.arange(height, device=images.device)) % side
    x = (left[:, None] + torch.arange(width, device=images.device)) % side
    at = (kind[:, None] * 3 + torch.arange(3, device=images.device))[:, :, None] * side + y[
        :, None
    ]  # [B, 3, H]
    layer = textures.flatten().index_select(0, (at[..., None] * side + x[:, None, None]).flatten())
    layer = layer.view(-1, 3, height, width).float()
    return images * shares[0] + (layer if channels == 3 else to_grey(layer)) * shares[1]


def fog(images: Tensor, parameters: tuple[float, float], draws: Draws) -> Tensor:
    """Plasma clouds, and the picture darkened to leave room for them."""
    amount, decay = parameters
    height, width = images.shape[2:]
    size = 1 << (max(height, width) - 1).bit_length()
    clouds = _plasma(size, decay, draws)[:, None, :height, :width] * (255 * amount)
    brightest = images.amax((1, 2, 3), keepdim=True).double()
    return clouds.add(images).mul_(brightest / (brightest + 255 * amount))


def _plasma(size: int, decay: float, draws: Draws) -> Tensor:
    """Diamond-square: [B, size, size] float64, each from 0 to 1.

    It is periodic, and its first point is 0.
    """
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
