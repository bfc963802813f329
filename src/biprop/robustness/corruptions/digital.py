"""Digital corruptions."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .filters import WHOLE, Array, Draws, box_matrix, smooth


def contrast(images: Tensor, factor: float, draws: Draws) -> Tensor:
    """Each channel nearer to its mean, by `factor` below 1."""
    mean = images.sum((2, 3), keepdim=True).double() / images.shape[2:].numel()
    return (images - mean).mul_(factor).add_(mean).add_(WHOLE)


def elastic_transform(
    images: Tensor, parameters: tuple[float, float, float], draws: Draws
) -> Tensor:
    """An affine map that moves three corners at random, then smooth displacements of pixels.

    Both are bilinear. `parameters` is (length and sigma of the displacements, largest move of a
    corner) as fractions of the shorter side.
    """
    shorter = min(images.shape[2:])
    length, sigma, corner = (shorter * fraction for fraction in parameters)
    result = _sample_affine(images, (draws.uniform(3, 2) * 2 - 1).cpu().numpy() * corner)
    if length:
        displacements = draws.uniform(2, *images.shape[2:]) * 2 - 1
        displacements = smooth(displacements, sigma, truncate=3, mirror=True) * length
        result = _sample_displaced(result, displacements)
    return result.add_(WHOLE)


def _axes(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places of columns [W] and rows [H], and both sizes [2, 1, 1] (width, height), in float64."""
    height, width = images.shape[2:]
    x = torch.arange(width, dtype=torch.float64, device=images.device)
    y = torch.arange(height, dtype=torch.float64, device=images.device)
    return x, y, x.new_tensor([width, height])[:, None, None]


def _sample_affine(images: Tensor, moves: Array) -> Tensor:
    """Images under the affine maps that move three corners by `moves`, [B, 3, (x, y)]."""
    height, width = images.shape[2:]
    inverse = _inverse_maps(height, width, moves)
    maps = torch.from_numpy(inverse).to(images.device)[:, :, :, None, None]
    x, y, sizes = _axes(images)
    places = (maps[:, 0] * x + maps[:, 1] * y[:, None]) + maps[:, 2]  # [B, (x, y), H, W]
    grid = places * 2 / (sizes - 1).clamp_(min=1) - 1
    return _sample(images.float(), grid, align_corners=True)


def _inverse_maps(height: int, width: int, moves: Array) -> Array:
    """[B, (x, y, 1), (x, y)]: where the pixels of the result come from."""
    centre, third = np.array([width // 2, height // 2]), min(height, width) // 3
    corners = centre + third * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = np.concatenate([corners + moves, np.ones((len(moves), 3, 1))], 2)
    targets = np.broadcast_to(corners.astype(np.float64), moves.shape)
    inverse: Array = np.linalg.solve(moved, targets)
    return inverse


def _sample_displaced(images: Tensor, displacements: Tensor) -> Tensor:
    """Images with each pixel taken from `displacements` [B, (x, y), H, W] pixels away."""
    x, y, sizes = _axes(images)
    places = displacements
    places[:, 0] += x
    places[:, 1] += y[:, None]
    return _sample(images, (places * 2 + 1) / sizes - 1, align_corners=False)


def _sample(images: Tensor, places: Tensor, align_corners: bool) -> Tensor:
    """Bilinear samples [B, C, H, W] at places [B, (x, y), H, W], as of `grid_sample`."""
    grid = places.permute(0, 2, 3, 1).float()
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=align_corners)


def pixelate(images: Tensor, factor: float, draws: Draws) -> Tensor:
    """Scaled by `factor` below 1 with Pillow's box filter, then back to the size as before.

    Pillow goes through columns before rows, and rounds after each.
    """
    values = images.double()
    for dimension in (3, 2):
        size = images.shape[dimension]
        small = max(1, int(size * factor))
        matrix = box_matrix(size, small, images.device)
        values = values @ matrix.T if dimension == 3 else matrix @ values
        values.add_(0.5).floor_()
    for dimension in (2, 3):  # boxes larger than pixels: the nearest
        size, small = images.shape[dimension], values.shape[dimension]
        nearest = ((torch.arange(size, dtype=torch.float64) + 0.5) * (small / size)).long()
        values = values.index_select(dimension, nearest.to(images.device))
    return values


def jpeg_compression(images: Tensor, quality: int, draws: Draws) -> Tensor:
    """Written and read by Pillow, on the CPU; `quality` as of Pillow, 1 .. 95."""
    pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    results = (
        np.stack([_through_jpeg(image, quality) for image in pixels]) if len(pixels) else pixels
    )
    return torch.from_numpy(results).permute(0, 3, 1, 2).to(images.device)


def _through_jpeg(image: Array, quality: int) -> Array:
    """[H, W, C] uint8 after compression."""
    buffer = io.BytesIO()
    grey_or_colour = image.squeeze(2) if image.shape[2] == 1 else image
    Image.fromarray(grey_or_colour).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).reshape(image.shape)
