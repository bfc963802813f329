"""Augmentation of batches of images: every image with its own parameters, drawn from an explicit generator.

Parameters are drawn on the CPU, so that the same seed gives the same images on every device.
Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Pad each image with zeros on all sides and cut out a window of the old size, at a place of its own.

    Args:
        images: [B, C, H, W], any dtype.
        padding: pixels per side.
        generator: on the CPU.

    Returns:
        [B, C, H, W], same dtype.
    """
    height, width = images.shape[2:]
    top, left = torch.randint(0, 2 * padding + 1, (2, len(images)), generator=generator).to(images.device)
    windows = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)  # [B, C, tops, lefts, H, W]
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half: [B, C, H, W] to the same."""
    flip = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(flip[:, None, None, None], images.flip(3), images)
