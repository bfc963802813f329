"""Augmentation of batches of images: every image with its own parameters, drawn from an explicit
generator.

Parameters are drawn on the CPU, so that the same seed gives the same images on every device.
Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import native


def draw_crop_and_flip(
    count: int, size: tuple[int, int], padding: int, flip: bool, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Move each image by up to `padding` pixels each way, zeros outside, and mirror it left to
    right with probability one half.

    The same as padding with zeros on all sides and cutting out a window of the old size at a place
    of its own.

    Args:
        count: images.
        size: (H, W).
        padding: pixels; 0 moves nothing.
        flip: False mirrors nothing.

    Returns:
        Which row, [count, H], and which column, [count, W], of an image comes where: for `pick`.
    """
    height, width = size
    down, right = generator.integers(-padding, padding + 1, size=(2, count, 1))
    mirrored = generator.integers(2, size=(count, 1)) * flip
    x = np.arange(width)
    return down + np.arange(height), right + np.where(mirrored, width - 1 - x, x)


def pick(images: Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Tensor:
    """Pixel (y, x) of image i becomes its pixel (rows[i, y], columns[i, x]), or 0 where it has
    none.

    Args:
        images: [B, C, H, W] uint8.
        rows: [B, H].
        columns: [B, W].

    Returns:
        [B, C, H, W] uint8.
    """
    core = native.library() if images.device.type == "cpu" else None
    if core is None:
        return pick_columns(pick_rows(images, rows), columns).contiguous()
    images = images.contiguous()
    picked = torch.empty_like(images)
    arrays = [np.ascontiguousarray(array) for array in (rows, columns)]
    addresses, threads = [images.data_ptr(), picked.data_ptr()], torch.get_num_threads()
    native.run(
        core.biprop_pick,
        addresses,
        len(images),
        threads,
        sizes=images.shape[1:],
        arrays=arrays,
        grain=native.IMAGES,
    )
    return picked


def pick_rows(images: Tensor, rows: NDArray[np.int64]) -> Tensor:
    """Row y of image i becomes its row rows[i, y], or zeros where it has no such row.

    Copies whole rows: a fifth of the time of picking single pixels.

    Args:
        images: [B, C, H, W].
        rows: [B, H].
    """
    count, channels, height, width = images.shape
    first = height * np.arange(count * channels).reshape(count, channels, 1)
    no_row = count * channels * height
    place = np.where(
        ((rows < 0) | (rows >= height))[:, None], no_row, first + rows[:, None]
    )  # [B, C, H]
    source = torch.cat([images.reshape(-1, width), images.new_zeros(1, width)])
    return source.index_select(0, torch.from_numpy(place.ravel()).to(images.device)).view_as(images)


def pick_columns(images: Tensor, columns: NDArray[np.int64]) -> Tensor:
    """Column x of image i becomes its column columns[i, x], [B, W], or zeros where it has no such
    column.
    """
    return pick_rows(images.transpose(2, 3), columns).transpose(2, 3)


def draw_noisy(
    count: int, p_clean: float, generator: np.random.Generator
) -> tuple[NDArray[np.bool_], int]:
    """Which of `count` images get noise, each with probability 1 - p_clean, and a seed for it."""
    return generator.random(count) >= p_clean, int(generator.integers(2**63))


def gaussian_noise(
    images: Tensor, std: float, noisy: NDArray[np.bool_], seed: int, share: slice = slice(None)
) -> Tensor:
    """Add normal noise to some of the images.

    The noise comes from a generator on the images' device, so it differs between kinds of devices:
    drawing it on the CPU would take longer than a GPU's training step.

    Args:
        images: [B, C, H, W], uint8 or float in 0 .. 255.
        std: standard deviation, of pixels in [0, 1].
        noisy: [N], of the batch that the B images are `share` of.
        share: which of the N; each of several processes draws the noise of all, so that they do
            what one alone would do.

    Returns:
        [B, C, H, W] float32 in [0, 255].
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    noise = torch.randn((len(noisy), *images.shape[1:]), generator=generator, device=images.device)[
        share
    ]
    scale = torch.from_numpy((255 * std * noisy[share]).astype(np.float32)).to(images.device)
    return (noise * scale[:, None, None, None]).add_(images).clamp_(0, 255)
