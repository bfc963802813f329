"""Picture files as a network takes them: found, decoded, and cut to size. Pillow and numpy only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import UserError, one_line

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
MARGIN = 256 / 224  # of pictures that are cut: the shorter side is scaled to 256 for a cut of 224


def in_folder(folder: Path) -> list[Path]:
    """The pictures of a folder and the folders in it, sorted; endings tell what is one."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS)


def find(names: Iterable[str | Path]) -> list[Path]:
    """Files as they are named, folders by their pictures, in the order given.

    Raises:
        UserError: no such file or folder, or a folder without pictures.
    """
    found: list[Path] = []
    for path in map(Path, names):
        try:
            path.stat()
            inside = in_folder(path) if path.is_dir() else [path]
        except (OSError, ValueError) as e:
            raise UserError(f"{path}: cannot be read: {getattr(e, 'strerror', None) or one_line(e)}") from None
        if not inside:
            raise UserError(f"{path}: no pictures in this folder ({', '.join(sorted(ENDINGS))})")
        found += inside
    return found


def read(path: Path, shape: tuple[int, int, int], cut: bool) -> NDArray[np.uint8]:
    """A picture as a network takes it, [C, H, W], made as data sets are: one of another size is scaled with bilinear weights.

    Args:
        path: of the file.
        shape: (channels, height, width); 1 channel is grey, 3 are RGB.
        cut: keep the middle of a picture of another size (see `cut_middle`), as with data that are streamed; else all of it is
            scaled, whatever its proportions, as with data in memory.

    Raises:
        UserError: it is no picture, or a damaged one.
    """
    from PIL import Image

    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(path) as file:
            image: Image.Image = file if file.mode == mode else file.convert(mode)
            if image.size != (width, height):
                whole = not cut or height != width
                image = image.resize((width, height), Image.Resampling.BILINEAR) if whole else cut_middle(image, height)
            pixels = np.asarray(image, dtype=np.uint8)
    except Exception as e:  # whatever a decoder of any format may raise
        raise UserError(f"{path}: not a readable image: {one_line(e)}") from None
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def cut_middle(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to size * 256 / 224, then CenterCrop."""
    from PIL import Image as Pillow

    side = round(size * MARGIN)
    width, height = image.size
    if width <= height:
        width, height = side, int(side * height / width)
    else:
        width, height = int(side * width / height), side
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Pillow.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))
