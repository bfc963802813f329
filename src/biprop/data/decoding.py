"""Listed images become tensors: all in memory, or read from disk as they are needed."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .. import images
from ..errors import UserError
from .items import Listing
from .sources import (
    IMAGENET_MEAN,
    IMAGENET_SIZE,
    IMAGENET_STD,
    Images,
    Parts,
    Progress,
    Source,
    Split,
    mean_and_std,
    no_progress,
)
from .stream import Streamed


def in_memory(
    parts: Parts,
    image_size: int | None,
    progress: Progress = no_progress,
    channels: int | None = None,
) -> Source:
    """Both parts decoded, of one size, with statistics of their own.

    Args:
        parts: the encoded images.
        image_size: pixels a side that all are scaled to; None where they have one size already.
        progress: shows how far it is.
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
    mean, std = mean_and_std(train.images)
    return _source(parts, train, test, mean, std)


def streamed(parts: Parts, image_size: int | None, workers: int) -> Source:
    """Both parts read while training, in colour, with the statistics of ImageNet."""
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
        train, test, parts.train.classes, mean, std, augment="crop+flip",
        held_out=held_out, about=parts.about, notes=parts.notes,
    )  # fmt: skip


def _common_mode(listings: Sequence[Listing]) -> str:
    """L if all images are grey, else RGB."""
    for listing in listings:
        items = listing.items
        for index in range(len(items)):
            with images.opened(items.read(index), items.name(index)) as image:
                if not images.is_grey(image):
                    return "RGB"
    return "L"


_SCALE = "pass --image-size N to scale all to N x N pixels"


def decode_all(listing: Listing, size: int | None, progress: Progress, mode: str) -> Images:
    """All images decoded; they must have the size of the first unless `size` (pixels a side) is
    given.
    """
    items = listing.items

    def read(index: int) -> NDArray[np.uint8]:
        with images.opened(items.read(index), items.name(index)) as file:
            image = images.as_mode(file, mode)
            return images.pixels(images.scaled(image, size, size) if size else image)

    first = read(0)
    if (need := first.size * len(items)) > (memory := _memory_size() // 2):
        raise UserError(
            f"{len(items):,} images of {first.shape[2]}x{first.shape[1]} pixels take"
            f" {need / 2**30:.1f} GiB, more than half of this machine's memory"
            f" ({memory / 2**29:.0f} GiB): pass --stream, or a smaller --image-size"
        )
    result = np.empty((len(items), *first.shape), dtype=np.uint8)

    # One thread: images this small cost more in Python than in the decoder, and two threads take
    # longer than one.
    for i in progress(range(len(items)), "decoding images", len(items)):
        image = read(i)
        if image.shape != first.shape:
            height, width = image.shape[1:]
            wanted = f"{first.shape[2]}x{first.shape[1]}"
            raise UserError(
                f"{items.name(i)}: {width}x{height} pixels where the first image has {wanted}:"
                f" {_SCALE}"
            )
        result[i] = image
    return Images(torch.from_numpy(result), torch.from_numpy(listing.labels))


def _memory_size() -> int:
    """Bytes of this machine's memory; without an answer, no limit."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63
