"""Digital corruptions."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .filters import WHOLE, Draws, box_matrix, smooth


def contrast(images: Tensor, factor: float, draws: Draws) -> Tensor:
    """Each channel nearer to its mean."""
    mean = images.sum((2, 3), keepdim=True).double() / images.shape[2:].numel()
    return (images - mean).mul_(factor).add_(mean).add_(WHOLE)


def elastic_transform(
    images: Tensor, parameters: tuple[float, float, float], draws: Draws
) -> Tensor:
    """An affine map that moves three corners at random, then smooth displacements of pixels;
    bilinear both times.
    """
    height, width = images.shape[2:]
    length, sigma, corner = (min(height, width) * part for part in parameters)
    moves = (draws.uniform(3, 2) * 2 - 1).cpu().numpy() * corner
    middle, third = np.array([width // 2, height // 2]), min(height, width) // 3
    corners = middle + third * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = np.concatenate([corners + moves, np.ones((len(images), 3, 1))], 2)
    back = np.linalg.solve(
        moved, np.broadcast_to(corners.astype(np.float64), moves.shape)
    )  # [B, (x, y, 1), (x, y)]
    maps = torch.from_numpy(back).to(images.device)[:, :, :, None, None]
    x, y = (
        torch.arange(size, dtype=torch.float64, device=images.device) for size in (width, height)
    )
    places = (maps[:, 0] * x + maps[:, 1] * y[:, None]) + maps[:, 2]  # [B, (x, y), H, W]
    sizes = places.new_tensor([width, height])[:, None, None]
    grid = (places * 2 / (sizes - 1).clamp_(min=1) - 1).permute(0, 2, 3, 1).float()
    result = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=True)
    if length:
        steps = (
            smooth(draws.uniform(2, height, width) * 2 - 1, sigma, truncate=3, mirror=True) * length
        )
        steps[:, 0] += x
        steps[:, 1] += y[:, None]
        grid = ((steps * 2 + 1) / sizes - 1).permute(0, 2, 3, 1).float()
        result = F.grid_sample(result, grid, padding_mode="reflection", align_corners=False)
    return result.add_(WHOLE)


def pixelate(images: Tensor, factor: float, draws: Draws) -> Tensor:
    """Boxes: smaller, then as large as before, by Pillow's rules and roundings, columns before
    rows.
    """
    levels = images.double()
    for dimension in (3, 2):
        size = images.shape[dimension]
        small = max(1, int(size * factor))
        matrix = box_matrix(size, small, images.device)
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
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(
            buffer, "JPEG", quality=quality
        )
        result[:] = np.asarray(Image.open(buffer)).reshape(result.shape)
    return torch.from_numpy(read).permute(0, 3, 1, 2).to(images.device)
