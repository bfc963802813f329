"""MNIST in its IDX files, or parquet files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError, one_line
from . import layouts
from .cifar import check_labels
from .decoding import decode_all
from .listings import parts_of_parquet
from .sources import Images, Progress, Source, checked_folder, no_progress

MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)

MNIST_SIZE = 28
MOST_MNIST_IMAGES = 10_000_000
"""Of one file: its header says how many, and memory is allocated for them."""
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error)


def mnist(folder: Path, progress: Progress = no_progress) -> Source:
    """MNIST, grey 28x28, never augmented: as published.

    Raises:
        UserError: no known layout is there, or a file is damaged.
    """
    digits = [str(digit) for digit in range(10)]
    homes = layouts.places(checked_folder(folder), "MNIST")
    candidates = [place for home in homes for place in (home, home / "raw", home / "MNIST" / "raw")]
    official = next(filter(_is_mnist, candidates), None)
    if not official and (files := layouts.of_parquet(homes[-1])):
        parts = parts_of_parquet(homes[-1], files, digits)
        train, test = (decode_all(part, None, progress, "L") for part in (parts.train, parts.test))
    else:
        train, test = (_mnist_part(folder, official or folder, part) for part in ("train", "t10k"))
    if train.shape != (1, MNIST_SIZE, MNIST_SIZE):
        raise UserError(
            f"--data {folder}: no MNIST there: images of {train.shape[2]}x{train.shape[1]} pixels;"
            " pass --set folder"
        )
    check_labels(train.labels, 10, folder)
    check_labels(test.labels, 10, folder)
    return Source(train, test, digits, MNIST_MEAN, MNIST_STD, augment="none")


def _is_mnist(place: Path) -> bool:
    """Whether a folder has the official training images."""
    return any((place / f"train-images-idx3-ubyte{suffix}").is_file() for suffix in ("", ".gz"))


def _mnist_part(folder: Path, place: Path, part: str) -> Images:
    images = _idx(folder, place / f"{part}-images-idx3-ubyte", (MNIST_SIZE, MNIST_SIZE))
    labels = _idx(folder, place / f"{part}-labels-idx1-ubyte", ())
    if len(images) != len(labels):
        raise UserError(f"{place}: {len(images):,} {part} images and {len(labels):,} labels")
    return Images(images[:, None], labels.long())


def _idx(folder: Path, name: Path, size: tuple[int, ...]) -> Tensor:
    """One file of the official MNIST, [N, *size] uint8.

    Args:
        folder: that --data names, for messages.
        name: of the file, without .gz.
        size: of one element.
    """
    path = next((p for p in (name, name.with_name(name.name + ".gz")) if p.is_file()), None)
    if path is None:
        raise UserError(
            f"--data {folder}: no MNIST there: expected train-*.parquet or {name.name}(.gz)"
        )
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _idx_shape(file, size)
            expected = math.prod(shape)
            data = file.read(expected + 1)
    except _UNREADABLE as e:
        raise UserError(f"{path}: not a readable MNIST file: {one_line(e)}") from None
    if len(data) != expected:
        raise UserError(
            f"{path}: not a readable MNIST file: {'more' if len(data) > expected else 'fewer'} than"
            f" {expected:,} bytes"
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(shape).copy())


def _idx_shape(file: gzip.GzipFile | IO[bytes], size: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in the header of an IDX file: big-endian (0, 0, type 8 = bytes, dimensions), then
    the sizes.

    Raises:
        ValueError: it is not [N, *size], or has too many elements.
    """
    dimensions = 1 + len(size)
    magic = 0x800 + dimensions
    header = np.frombuffer(file.read(4 * (1 + dimensions)), ">i4").tolist()
    is_right = len(header) == 1 + dimensions and [header[0], *header[2:]] == [magic, *size]
    if not is_right or not 0 < header[1] <= MOST_MNIST_IMAGES:
        raise ValueError(f"its head is {header}, must be {[magic, 'N', *size]}")
    return tuple(header[1:])
