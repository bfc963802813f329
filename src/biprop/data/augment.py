"""Augmentation of batches: crop, flip and noise, with parameters of their own for each image.

Parameters are drawn on the CPU from an explicit generator, so that the same seed gives the same
images on every device. Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import native
from .transfer import on_device

Indices = NDArray[np.int64]


def draw_crop_and_flip(
    count: int, size: tuple[int, int], padding: int, flip: bool, generator: np.random.Generator
) -> tuple[Indices, Indices]:
    """Draw a random crop of each image, padded by `padding` pixels on all sides, and a horizontal
    flip with probability one half.

    Args:
        count: number of images.
        size: (H, W) of the images and the crops.
        padding: in pixels; 0 crops nothing.
        flip: False flips nothing.
        generator: advanced by the same number of draws, whatever `padding` and `flip` are.

    Returns:
        The row, [count, H], and the column, [count, W], of the image that each row and column of
        the result comes from: for `pick`.
    """
    height, width = size
    down, right = generator.integers(-padding, padding + 1, size=(2, count, 1))
    flipped = generator.integers(2, size=(count, 1)) * flip
    x = np.arange(width)
    return down + np.arange(height), right + np.where(flipped, width - 1 - x, x)


def reflected(places: Indices, size: int) -> Indices:
    """Places outside of an image, reflected at its border, as with PyTorch's padding mode
    "reflect": -1 becomes 1, and `size` becomes size - 2.

    Args:
        places: rows or columns, from 1 - size to 2 (size - 1).
        size: number of rows or columns of the image.
    """
    last = size - 1
    result: Indices = last - np.abs(last - np.abs(places))
    return result


def pick(images: Tensor, rows: Indices, columns: Indices) -> Tensor:
    """Pixel (y, x) of image i becomes its pixel (rows[i, y], columns[i, x]), or 0 outside of it.

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
    native.run(
        core.biprop_pick,
        [images.data_ptr(), picked.data_ptr()],
        len(images),
        torch.get_num_threads(),
        sizes=images.shape[1:],
        arrays=[np.ascontiguousarray(rows), np.ascontiguousarray(columns)],
        grain=native.IMAGES,
    )
    return picked


def pick_rows(images: Tensor, rows: Indices) -> Tensor:
    """Row y of image i becomes its row rows[i, y], or zeros outside of it.

    Copies whole rows: a fifth of the time of picking single pixels.

    Args:
        images: [B, C, H, W].
        rows: [B, H].

    Returns:
        [B, C, H, W] of the dtype of `images`.
    """
    count, channels, height, width = images.shape
    first = height * np.arange(count * channels).reshape(count, channels, 1)
    zeros = count * channels * height  # the row of zeros behind all others
    is_outside = (rows < 0) | (rows >= height)
    places = np.where(is_outside[:, None], zeros, first + rows[:, None])  # [B, C, H]
    source = torch.cat([images.reshape(-1, width), images.new_zeros(1, width)])
    index = on_device(places.ravel(), images.device)
    return source.index_select(0, index).view_as(images)


def pick_columns(images: Tensor, columns: Indices) -> Tensor:
    """Column x of image i becomes its column columns[i, x], or zeros outside of it.

    Args:
        images: [B, C, H, W].
        columns: [B, W].
    """
    return pick_rows(images.transpose(2, 3), columns).transpose(2, 3)


def draw_noisy(
    count: int, p_clean: float, generator: np.random.Generator
) -> tuple[NDArray[np.bool_], int]:
    """Which of `count` images get noise, bool [count], each with probability 1 - p_clean; and a
    seed for the noise.
    """
    return generator.random(count) >= p_clean, int(generator.integers(2**63))


def gaussian_noise(
    images: Tensor, std: float, noisy: NDArray[np.bool_], seed: int, share: slice = slice(None)
) -> Tensor:
    """Add Gaussian noise to some of the images.

    The noise comes from a generator on the images' device, so it differs between types of devices:
    drawing it on the CPU would take longer than a GPU's training step.

    Args:
        images: [B, C, H, W], uint8 or float in 0 .. 255.
        std: standard deviation, of pixels in [0, 1].
        noisy: bool [N], of the whole batch.
        seed: of the noise.
        share: which of the N images these B are; each of several processes draws the noise of all,
            so that they compute what one alone would.

    Returns:
        [B, C, H, W] float32 in [0, 255].
    """
    device = images.device
    generator = torch.Generator(device).manual_seed(seed)
    shape = (len(noisy), *images.shape[1:])
    noise = torch.randn(shape, generator=generator, device=device)[share]
    scale = on_device((255 * std * noisy[share]).astype(np.float32), device)
    return (noise * scale[:, None, None, None]).add_(images).clamp_(0, 255)
