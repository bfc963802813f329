"""The common corruptions of CIFAR-10-C and ImageNet-C, on batches of images: 19 at five severities.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019 (arXiv 1903.12261). Definitions are those of the authors' programs,
without OpenCV, SciPy, scikit-image or ImageMagick; `severities` has the parameters. One thing is
our own: frost, which adds crops of photographs there, adds crops of textures made here, with the
colours, the contrast and the spectrum of the published results.

An image's result follows from itself, the seed, the name, the severity and its number alone, bit by
bit, whoever else is in the batch. Random numbers are therefore counted, not streamed; and sums,
whose order depends on the size of a batch, are exact: their weights are whole multiples of 2^-16
(2^-22 in integers), so that double precision holds every product and partial sum. Rejected: single
precision, which some devices compute with ten bits (TF32), and a convolution per image, where
shifted copies of images sorted by direction are ten times faster.

Shapes: B images, C channels (1 or 3), H x W pixels. Grey levels run from 0 to 255; parameters are
of pixels in [0, 1].
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError, did_you_mean
from ..severities import EXTRA, NAMES, SEVERITIES, parameters
from .blur import defocus_blur, gaussian_blur, glass_blur, motion_blur, zoom_blur
from .digital import contrast, elastic_transform, jpeg_compression, pixelate
from .extra import saturate, spatter
from .filters import PIXELS, Draws
from .noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from .weather import brightness, fog, frost, snow


def corrupt(
    images: Tensor, name: str, severity: int, seed: int = 0, numbers: Sequence[int] | None = None
) -> Tensor:
    """Corrupt a batch of images, on their device.

    Args:
        images: [B, C, H, W] uint8, C is 1 or 3.
        name: one of `severities.NAMES` or `EXTRA`.
        severity: 1 to 5; the shorter side of the images chooses the table (`severities.TABLES`).
        seed: of everything random, 0 .. 2**64 - 1.
        numbers: [B], not negative: the images' numbers in their data set; 0 .. B - 1 if not given.
            The same image, seed and number give the same result in any batch.

    Returns:
        [B, C, H, W] uint8.

    Raises:
        UserError: no such name, or no such severity.
        ValueError: images or numbers of another type or shape, or a seed out of range.
    """
    _check_choice(name, severity)
    _check_images(images)
    numbers = _checked_numbers(numbers, len(images))
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed = {seed}: must be in 0 .. 2**64 - 1")
    height, width = images.shape[2:]
    chosen = parameters(name, severity, min(height, width))
    key = seed | (NAMES + EXTRA).index(name) << 64 | severity << 96
    corrupted = torch.empty_like(images, memory_format=torch.contiguous_format)
    group = max(1, PIXELS // (height * width))
    for start in range(0, len(images), group):
        some = slice(start, start + group)
        draws = Draws(key, numbers[some], images.device)
        result = _FUNCTIONS[name](images[some].contiguous(), chosen, draws)
        corrupted[some] = _as_bytes(result)
    return corrupted


def _check_choice(name: str, severity: int) -> None:
    if name not in _FUNCTIONS:
        known = NAMES + EXTRA
        raise UserError(
            f"corruption {name!r}: not one of {', '.join(known)}{did_you_mean(name, known)}"
        )
    if severity not in SEVERITIES:
        raise UserError(f"severity = {severity!r}: must be 1, 2, 3, 4 or 5")


def _check_images(images: Tensor) -> None:
    is_batch = images.dtype == torch.uint8 and images.dim() == 4
    if not is_batch or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ValueError(
            f"images are {images.dtype} {list(images.shape)}: must be uint8 [B, 1 or 3, H, W]"
        )


def _checked_numbers(numbers: Sequence[int] | None, count: int) -> Sequence[int]:
    """The numbers of `count` images, as Python's integers."""
    if numbers is None:
        return range(count)
    numbers = [operator.index(number) for number in numbers]
    if len(numbers) != count or min(numbers, default=0) < 0:
        raise ValueError(f"numbers: must be {count} (one an image), none negative")
    return numbers


def _as_bytes(values: Tensor) -> Tensor:
    """Grey levels that the assignment to bytes only has to round down."""
    return values if values.dtype == torch.uint8 else values.clamp_(0, 255)


_NOISE = (gaussian_noise, shot_noise, impulse_noise)
_BLUR = (defocus_blur, glass_blur, motion_blur, zoom_blur)
_WEATHER = (snow, frost, fog, brightness)
_DIGITAL = (contrast, elastic_transform, pixelate, jpeg_compression)
_EXTRA = (speckle_noise, gaussian_blur, spatter, saturate)
_FUNCTIONS: dict[str, Callable[[Tensor, Any, Draws], Tensor]] = {
    function.__name__: function for function in (*_NOISE, *_BLUR, *_WEATHER, *_DIGITAL, *_EXTRA)
}
