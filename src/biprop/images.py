"""Image files as a network takes them: found, opened, decoded and cut to size.

Pillow and numpy only.

Every image that this program decodes, from a folder, a parquet file, a Hub data set or the command
line, comes through `opened` and `as_mode`, which do the same everywhere: only the formats of
`FORMATS` are opened, an image with too many pixels is refused, the orientation that a camera noted
is applied, transparent pixels show a white background, and values of 16 bits are scaled to 8.
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
"""Pillow's raster formats that are opened, whatever a file is called, and the file endings that
mean an image in a folder.

Others are not even tried: for PostScript, for one, Pillow starts an interpreter.
"""
_OPTIONAL = ("WEBP", "AVIF")
"""Formats that not every build of Pillow reads."""
OTHER_ENDINGS = (
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
"""Endings of image files that are not read: where a folder has some, that is said."""
MOST_PIXELS = 89_478_485
"""Of one image: Pillow's own limit, a quarter of a gigabyte in colour.

A few bytes can claim any number of pixels.
"""
NOT_DATA = (
    "__MACOSX",
    "@eaDir",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "__pycache__",
)
"""Folders that systems leave beside or among images."""
MARGIN = 256 / 224  # of images that are cut: the shorter side is scaled to 256 for a cut of 224
BACKGROUND = 255
"""What shows through transparent pixels, in all channels: white, as on a page."""

_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_ALPHA_MODES = ("LA", "PA", "RGBA", "RGBa")
_ORIENTATION = 0x0112  # tag of EXIF
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339  # tags of TIFF


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that this machine's Pillow reads."""
    from PIL import features

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an older Pillow warns of a name that it does not know
        return tuple(
            name for name in FORMATS if name not in _OPTIONAL or features.check(name.lower())
        )


def endings() -> tuple[str, ...]:
    """The file endings that mean an image, of the formats that are read here."""
    return tuple(ending for name in formats() for ending in FORMATS[name])


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's data: `.x`, or what a system
    leaves there.
    """
    return name.startswith(".") or name in NOT_DATA


def files_below(folder: Path) -> list[Path]:
    """All visible files in a folder and the folders in it, sorted.

    Links are followed, but no folder is entered twice.
    """
    found: list[Path] = []
    entered: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        status = Path(place).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in entered:
            folders.clear()
            continue
        entered.add(identity)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        found += [Path(place, name) for name in files if not is_hidden(name)]
    return sorted(found)


def in_folder(folder: Path) -> list[Path]:
    """The images of a folder and the folders in it, sorted; file endings tell what is one."""
    known = endings()
    return [path for path in files_below(folder) if path.suffix.lower() in known]


def find(names: Iterable[str | Path]) -> list[Path]:
    """Files as they are named, folders by their images, in the order given.

    Raises:
        UserError: no such file or folder, or a folder without images.
    """
    found: list[Path] = []
    for path in map(Path, names):
        try:
            path.stat()
            inside = in_folder(path) if path.is_dir() else [path]
        except (OSError, ValueError) as e:
            raise UserError(
                f"{path}: cannot be read: {getattr(e, 'strerror', None) or one_line(e)}"
            ) from None
        if not inside:
            raise UserError(f"{path}: no pictures in this folder ({', '.join(endings())})")
        found += inside
    return found


@contextmanager
def opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """An image file, of which only the head has been read; whatever goes wrong until the block ends
    is a mistake of the file.

    Args:
        source: the file, or its content.
        name: for messages.

    Raises:
        UserError: it is no image in one of the formats that are read, a damaged one, or one of more
            than `MOST_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            file = Image.open(
                BytesIO(source) if isinstance(source, bytes) else source, formats=formats()
            )
        with file:
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
    except Exception as e:  # whatever a decoder of any format may raise
        raise UserError(f"{name}: not a readable image: {one_line(e)}") from None


def mode_of(channels: int) -> str:
    """Pillow's mode of images of 1 channel (grey) or 3 (RGB)."""
    return "L" if channels == 1 else "RGB"


def is_grey(image: Image.Image) -> bool:
    """Whether an image file holds shades of grey only, by its kind of pixels."""
    return image.mode in _GREY_MODES


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image upright, without transparency, in mode "L" or "RGB".

    Raises:
        ValueError: values that cannot be scaled to 8 bits without knowing what they mean.
    """
    image.load()
    composed = _composed(_in_8_bits(_upright(image)))
    return composed if composed.mode == mode else composed.convert(mode)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the image when it is upright; a JPEG need not be decoded for that."""
    if image.format not in ("JPEG", "MPO"):
        image.load()  # Pillow itself turns a TIFF then
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def _orientation(image: Image.Image) -> int:
    """How the camera was held, 1 (upright) to 8, as EXIF has it; 1 where nothing sensible is noted."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged notes do not make a damaged image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image) -> Image.Image:
    from PIL import Image as Pillow

    turn = Pillow.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    orientation = _orientation(image)
    return image.transpose(turns[orientation]) if orientation in turns else image


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Grey values of more than 8 bits, scaled by the range of their type; other images as they are."""
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
    """The largest value of an image of whole numbers, by its type.

    Raises:
        ValueError: numbers of 32 bits, whose range nothing tells.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF; other formats have 16 bits
    bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
    if bits > 16:
        raise ValueError(f"whole numbers of {bits} bits: save it with 8 or 16 bits a value")
    is_signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    return int(2 ** (bits - is_signed)) - 1


def _scaled_floats(values: NDArray[Any]) -> NDArray[Any]:
    if values.size and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"floats from {values.min():g} to {values.max():g}: must be in 0 .. 1")
    levels: NDArray[Any] = np.rint(values * 255)
    return levels


def _of_pixels(values: NDArray[Any]) -> Image.Image:
    from PIL import Image as Pillow

    return Pillow.fromarray(values.astype(np.uint8))


def _composed(image: Image.Image) -> Image.Image:
    """The image on the background, if it has transparent pixels."""
    from PIL import Image as Pillow

    if image.mode not in _ALPHA_MODES and "transparency" not in image.info:
        return image
    with_alpha = image.convert("RGBA")
    page = Pillow.new("RGBA", image.size, (BACKGROUND,) * 4)
    return Pillow.alpha_composite(page, with_alpha).convert("L" if is_grey(image) else "RGB")


def read(path: Path, shape: tuple[int, int, int], cut: bool) -> NDArray[np.uint8]:
    """An image as a network takes it, [C, H, W], made as data sets are: one of another size is
    scaled with bilinear weights.

    Args:
        path: of the file.
        shape: (channels, height, width); 1 channel is grey, 3 are RGB.
        cut: keep the middle of an image of another size (see `cut_middle`), as with data that are
            streamed; else all of it is scaled, whatever its proportions, as with data in memory.

    Raises:
        UserError: see `opened` and `as_mode`.
    """
    channels, height, width = shape
    with opened(path, str(path)) as file:
        image = as_mode(file, mode_of(channels))
        if image.size != (width, height) and cut and height == width:
            image = cut_middle(image, height)
        return pixels(scaled(image, width, height))


def scaled(image: Image.Image, width: int, height: int) -> Image.Image:
    """The whole image at this size, whatever its proportions."""
    from PIL import Image as Pillow

    return (
        image
        if image.size == (width, height)
        else image.resize((width, height), Pillow.Resampling.BILINEAR)
    )


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """[C, H, W] of an image in mode "L" or "RGB"."""
    values = np.asarray(image, dtype=np.uint8)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


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
