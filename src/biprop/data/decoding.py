"""From listed images to splits: all decoded in memory, or read from disk as they are needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .. import images
from ..errors import UserError
from ..native import memory_size
from .items import Items, Listing
from .sources import (
    IMAGENET_MEAN,
    IMAGENET_SIZE,
    IMAGENET_STD,
    Images,
    Parts,
    Progress,
    Source,
    Split,
    no_progress,
)
from .stream import Streamed


def in_memory(
    parts: Parts,
    image_size: int | None,
    progress: Progress = no_progress,
    channels: int | None = None,
) -> Source:
    """Both parts decoded, of one size.

    Args:
        parts: the encoded images.
        image_size: pixels a side that all are scaled to; None where they have one size already.
        progress: shows the progress.
        channels: 1 for grey, 3 for colour; None: grey if all images of both parts are.

    Raises:
        UserError: an image cannot be read, sizes differ while `image_size` is not given, or memory
            is too small.
    """
    listings = (parts.train, parts.test)
    mode = images.mode_of(channels) if channels else _common_mode(listings)
    train, test = (decode_all(part, image_size, progress, mode) for part in listings)
    if train.shape != test.shape:
        raise UserError(f"training and test images have different sizes: {_SCALE}")
    return _source(parts, train, test, mean=(), std=())


def streamed(parts: Parts, image_size: int | None, workers: int) -> Source:
    """Both parts read while training, in colour, with the statistics of ImageNet.

    Args:
        parts: the encoded images.
        image_size: side of a crop in pixels; None: 224.
        workers: number of processes that decode; 0 decodes in this one.
    """
    size = image_size or IMAGENET_SIZE
    train, test = (
        Streamed(part.items, torch.from_numpy(part.labels), size, workers)
        for part in (parts.train, parts.test)
    )
    return _source(parts, train, test, IMAGENET_MEAN, IMAGENET_STD)


def _source(
    parts: Parts, train: Split, test: Split, mean: tuple[float, ...], std: tuple[float, ...]
) -> Source:
    held_out = None if parts.validation is None else torch.from_numpy(parts.validation)
    return Source(
        train,
        test,
        parts.train.classes,
        mean,
        std,
        augment="crop+flip",
        held_out=held_out,
        about=parts.about,
        notes=parts.notes,
    )


def expected_shape(
    parts: Parts, image_size: int | None, channels: int | None, is_streamed: bool
) -> tuple[int, int, int]:
    """The shape of an image, from a look at some of them, before all are decoded.

    Whether all are grey is only known when all have been read: this looks at `_FEW` of them.

    Raises:
        UserError: an image cannot be read.
    """
    if is_streamed:
        size = image_size or IMAGENET_SIZE
        return 3, size, size
    items = parts.train.items
    few = np.unique(np.linspace(0, len(items) - 1, _FEW).astype(int))
    is_grey = channels == 1 or (channels is None and all(_is_grey(items, int(i)) for i in few))
    first = _decoded(items, 0, image_size, "L" if is_grey else "RGB")
    return first.shape[0], first.shape[1], first.shape[2]


_FEW = 20
"""Images that `expected_shape` opens."""


def _common_mode(listings: Sequence[Listing]) -> str:
    """ "L" if all images are grey, else "RGB"."""
    is_grey = all(
        _is_grey(listing.items, index)
        for listing in listings
        for index in range(len(listing.items))
    )
    return "L" if is_grey else "RGB"


def _is_grey(items: Items, index: int) -> bool:
    with images.opened(items.read(index), items.name(index)) as image:
        return images.is_grey(image)


_SCALE = "pass --image-size N to scale all to N x N pixels"


def decode_all(listing: Listing, size: int | None, progress: Progress, mode: str) -> Images:
    """All images decoded, in memory.

    Args:
        listing: the encoded images.
        size: pixels a side that all are scaled to; None where they have one size already.
        progress: shows the progress.
        mode: "L" or "RGB".

    Raises:
        UserError: an image cannot be read, they differ in size, or memory is too small.
    """
    items = listing.items
    first = _decoded(items, 0, size, mode)
    _check_memory(len(items), first)
    result = np.empty((len(items), *first.shape), dtype=np.uint8)
    # One thread: images this small cost more in Python than in the decoder, and two threads take
    # longer than one.
    for index in progress(range(len(items)), "decoding images", len(items)):
        image = _decoded(items, index, size, mode)
        if image.shape != first.shape:
            raise UserError(
                f"{items.name(index)}: {_size(image)} pixels where the first image has"
                f" {_size(first)}: {_SCALE}"
            )
        result[index] = image
    return Images(torch.from_numpy(result), torch.from_numpy(listing.labels))


def _decoded(items: Items, index: int, size: int | None, mode: str) -> NDArray[np.uint8]:
    """One image, [C, H, W]; arguments as of `decode_all`."""
    with images.opened(items.read(index), items.name(index)) as file:
        image = images.as_mode(file, mode)
        return images.pixels(images.scaled(image, size, size) if size else image)


def _size(image: NDArray[np.uint8]) -> str:
    """Width and height of [C, H, W], in words."""
    return f"{image.shape[2]}x{image.shape[1]}"


def _check_memory(count: int, image: NDArray[np.uint8]) -> None:
    """Raise UserError if `count` images like this one take more than half of the memory."""
    required, available = image.size * count, memory_size() // 2
    if required > available:
        raise UserError(
            f"{count:,} images of {_size(image)} pixels take {required / 2**30:.1f} GiB, more than"
            f" half of this machine's memory ({available / 2**29:.0f} GiB): pass --stream, or a"
            " smaller --image-size"
        )
