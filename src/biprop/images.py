"""Image files as network inputs: found, opened, decoded, scaled and cropped.

Pillow and numpy only.

Every image that this program decodes, from a folder, a parquet file, a Hub data set or the command
line, passes through `opened` and `as_mode`: only the formats of `FORMATS` are opened, an image with
too many pixels is refused, the EXIF orientation is applied, transparent pixels show a white
background, and values of 16 bits are scaled to 8.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import UserError, one_line

if TYPE_CHECKING:
    from PIL import Image


FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
}
"""Pillow's raster formats that are opened, whatever a file is called, and the suffixes of image
files in a folder.

Other formats are not tried: for PostScript, for example, Pillow starts an interpreter.
"""
_OPTIONAL = ("WEBP", "AVIF")
"""Formats that not every build of Pillow reads."""
UNREAD_SUFFIXES = (
    ".heic",
    ".heif",
    ".jxl",
    ".jp2",
    ".svg",
    ".psd",
    ".dng",
    ".cr2",
    ".nef",
    ".arw",
    ".raw",
    ".eps",
)
"""Suffixes of image files that are not read: where a folder has some, the user is told."""
MOST_PIXELS = 89_478_485
"""Of one image: Pillow's own limit, a quarter of a gigabyte in colour.

A file of a few bytes can claim any number of pixels.
"""
NOT_DATA = (
    "__MACOSX",
    "@eaDir",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "__pycache__",
)
"""Folders that operating systems create beside or among images."""
MARGIN = 256 / 224
"""Of a centre crop: the shorter side is scaled to 256 for a crop of 224 (the ImageNet protocol)."""
BACKGROUND = 255
"""The value behind transparent pixels, in all channels: white."""

_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_ALPHA_MODES = ("LA", "PA", "RGBA", "RGBa")
_ORIENTATION = 0x0112  # tag of EXIF
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339  # tags of TIFF
_SIGNED = 2  # value of the latter


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that this machine's Pillow reads."""
    from PIL import features

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an older Pillow warns of a name that it does not know
        return tuple(
            name for name in FORMATS if name not in _OPTIONAL or features.check(name.lower())
        )


def suffixes() -> tuple[str, ...]:
    """The suffixes of image files, of the formats that are read here."""
    return tuple(suffix for name in formats() for suffix in FORMATS[name])


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data of the user: `.x`, or `NOT_DATA`."""
    return name.startswith(".") or name in NOT_DATA


def files_below(folder: Path) -> list[Path]:
    """All visible files in a folder and the folders in it, sorted.

    Links are followed, but no folder is entered twice.
    """
    paths: list[Path] = []
    entered: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        status = Path(place).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in entered:
            folders.clear()
            continue
        entered.add(identity)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        paths += [Path(place, name) for name in files if not is_hidden(name)]
    return sorted(paths)


def in_folder(folder: Path) -> list[Path]:
    """The images of a folder and the folders in it, sorted, recognised by their suffixes."""
    known = suffixes()
    return [path for path in files_below(folder) if path.suffix.lower() in known]


def find(names: Iterable[str | Path]) -> list[Path]:
    """Image files: files as they are named, folders by the images in them, in the order given.

    Raises:
        UserError: no such file or folder, or a folder without images.
    """
    paths: list[Path] = []
    for path in map(Path, names):
        try:
            path.stat()
            inside = in_folder(path) if path.is_dir() else [path]
        except (OSError, ValueError) as e:
            reason = getattr(e, "strerror", None) or one_line(e)
            raise UserError(f"{path}: cannot be read: {reason}") from None
        if not inside:
            raise UserError(f"{path}: no images in this folder ({', '.join(suffixes())})")
        paths += inside
    return paths


@contextmanager
def opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """Open an image file, of which only the header has been read; errors of its decoder in the
    block become a UserError.

    Args:
        source: the file, or its content.
        name: for messages.

    Raises:
        UserError: it is no image in one of the formats that are read, a damaged one, or one of more
            than `MOST_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with _header(source) as file:
            if file.width * file.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            yield file
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(
            f"{name}: not read: more than {MOST_PIXELS:,} pixels; scale it down first"
        ) from None
    except UnidentifiedImageError:
        raise UserError(
            f"{name}: not a readable image: none of the formats {', '.join(formats())}"
        ) from None
    except Exception as e:  # a decoder may raise anything
        raise UserError(f"{name}: not a readable image: {one_line(e)}") from None


def _header(source: Path | bytes) -> Image.Image:
    """Pillow's image of a file whose pixels have not been read."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        file = BytesIO(source) if isinstance(source, bytes) else source
        return Image.open(file, formats=formats())


def mode_of(channels: int) -> str:
    """Pillow's mode of images of 1 channel ("L", grey) or 3 ("RGB")."""
    return "L" if channels == 1 else "RGB"


def is_grey(image: Image.Image) -> bool:
    """Whether an image file is in grey by its mode, whatever its pixels."""
    return image.mode in _GREY_MODES


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image upright, without transparency, in mode "L" or "RGB".

    Raises:
        ValueError: values whose range is unknown, which cannot be scaled to 8 bits.
    """
    image.load()
    composed = _composed(_in_8_bits(_upright(image)))
    return composed if composed.mode == mode else composed.convert(mode)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the upright image in pixels; a JPEG is not decoded for that."""
    if image.format not in ("JPEG", "MPO"):
        image.load()  # Pillow itself rotates a TIFF then
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is no valid one."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata does not make a damaged image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image) -> Image.Image:
    """The image with its EXIF orientation applied."""
    from PIL import Image as Pillow

    method = Pillow.Transpose
    transpositions = {
        2: method.FLIP_LEFT_RIGHT,
        3: method.ROTATE_180,
        4: method.FLIP_TOP_BOTTOM,
        5: method.TRANSPOSE,
        6: method.ROTATE_270,
        7: method.TRANSVERSE,
        8: method.ROTATE_90,
    }
    orientation = _orientation(image)
    return image if orientation == 1 else image.transpose(transpositions[orientation])


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Grey values of more than 8 bits, scaled by the range of their type; else unchanged."""
    if image.mode == "F":
        return _of_pixels(_scaled_floats(np.asarray(image)))
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    highest = _highest(image)
    if values.size and (int(values.min()) < 0 or int(values.max()) > highest):
        raise ValueError(f"values from {values.min()} to {values.max()}: must be in 0 .. {highest}")
    scaled = (values.astype(np.int64) * 255 + highest // 2) // highest
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[values == transparent] = BACKGROUND
    return _of_pixels(scaled)


def _highest(image: Image.Image) -> int:
    """The largest value of an image of integers, by its type.

    Raises:
        ValueError: integers of 32 bits, whose range is unknown.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF; other formats have 16 bits
    bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
    if bits > 16:
        raise ValueError(f"whole numbers of {bits} bits: save it with 8 or 16 bits a value")
    is_signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED
    return int(2 ** (bits - is_signed)) - 1


def _scaled_floats(values: NDArray[Any]) -> NDArray[Any]:
    """Floats in 0 .. 1 scaled to 0 .. 255 and rounded, of the same shape.

    Raises:
        ValueError: they have another range.
    """
    if values.size and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"floats from {values.min():g} to {values.max():g}: must be in 0 .. 1")
    scaled: NDArray[Any] = np.rint(values * 255)
    return scaled


def _of_pixels(values: NDArray[Any]) -> Image.Image:
    from PIL import Image as Pillow

    return Pillow.fromarray(values.astype(np.uint8))


def _composed(image: Image.Image) -> Image.Image:
    """The image in front of the background, if it has transparent pixels."""
    from PIL import Image as Pillow

    if image.mode not in _ALPHA_MODES and "transparency" not in image.info:
        return image
    with_alpha = image.convert("RGBA")
    background = Pillow.new("RGBA", image.size, (BACKGROUND,) * 4)
    composed = Pillow.alpha_composite(background, with_alpha)
    return composed.convert("L" if is_grey(image) else "RGB")


def read(path: Path, shape: tuple[int, int, int], cut: bool) -> NDArray[np.uint8]:
    """An image file as a network input, preprocessed as data sets are: an image of another size is
    scaled with bilinear interpolation.

    Args:
        path: of the file.
        shape: (channels, height, width); 1 channel is grey, 3 are RGB.
        cut: take the centre crop of an image of another size (see `centre_crop`), as of streamed
            data; else all of it is scaled, whatever its proportions, as of data in memory.

    Returns:
        [C, H, W] uint8.

    Raises:
        UserError: see `opened` and `as_mode`.
    """
    channels, height, width = shape
    with opened(path, str(path)) as file:
        image = as_mode(file, mode_of(channels))
        if image.size != (width, height) and cut and height == width:
            image = centre_crop(image, height)
        return pixels(scaled(image, width, height))


def scaled(image: Image.Image, width: int, height: int) -> Image.Image:
    """The whole image at this size in pixels, whatever its proportions."""
    from PIL import Image as Pillow

    if image.size == (width, height):
        return image
    return image.resize((width, height), Pillow.Resampling.BILINEAR)


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of an image in mode "L" or "RGB": [C, H, W] uint8."""
    values = np.asarray(image, dtype=np.uint8)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def side_before_crop(size: int) -> int:
    """Pixels that the shorter side is scaled to before a centre crop of size x size pixels."""
    return round(size * MARGIN)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre crop of size x size pixels; the shorter side is scaled to size * MARGIN first."""
    from PIL import Image as Pillow

    side = side_before_crop(size)
    width, height = image.size
    if width <= height:
        width, height = side, int(side * height / width)
    else:
        width, height = int(side * width / height), side
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Pillow.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))
