"""MNIST in its IDX files, or parquet files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

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
"""Of one file: its head says how many, and memory is taken for them."""


def mnist(folder: Path, progress: Progress = no_progress) -> Source:
    """MNIST, grey 28x28, never augmented: as published.

    Raises:
        UserError: no known layout is there, or a file is damaged.
    """
    digits = [str(d) for d in range(10)]
    homes = layouts.places(checked_folder(folder), "MNIST")
    official = [
        place
        for home in homes
        for place in (home, home / "raw", home / "MNIST" / "raw")
        if _is_mnist(place)
    ]
    if not official and (files := layouts.of_parquet(homes[-1])):
        parts = parts_of_parquet(homes[-1], files, digits)
        train, test = (decode_all(part, None, progress, "L") for part in (parts.train, parts.test))
    else:
        place = official[0] if official else folder
        train, test = (_mnist_part(folder, place, part) for part in ("train", "t10k"))
    if train.shape != (1, MNIST_SIZE, MNIST_SIZE):
        raise UserError(
            f"--data {folder}: no MNIST there: images of {train.shape[2]}x{train.shape[1]} pixels;"
            " pass --set folder"
        )
    check_labels(train.labels, 10, folder)
    check_labels(test.labels, 10, folder)
    return Source(train, test, digits, MNIST_MEAN, MNIST_STD, augment="none")


def _is_mnist(place: Path) -> bool:
    return any((place / f"train-images-idx3-ubyte{ending}").is_file() for ending in ("", ".gz"))


def _mnist_part(folder: Path, place: Path, part: str) -> Images:
    images = _idx(folder, place / f"{part}-images-idx3-ubyte", (MNIST_SIZE, MNIST_SIZE))
    labels = _idx(folder, place / f"{part}-labels-idx1-ubyte", ())
    if len(images) != len(labels):
        raise UserError(f"{place}: {len(images):,} {part} images and {len(labels):,} labels")
    return Images(images[:, None], labels.long())


def _idx(folder: Path, name: Path, size: tuple[int, ...]) -> Tensor:
    """One file of the official MNIST, [N, *size]: big-endian head (0, 0, type 8 = bytes,
    dimensions), sizes, then the bytes.
    """
    path = next((p for p in (name, name.with_name(name.name + ".gz")) if p.is_file()), None)
    if path is None:
        raise UserError(
            f"--data {folder}: no MNIST there: expected train-*.parquet or {name.name}(.gz)"
        )
    magic, head_size = 0x800 + 1 + len(size), 4 * (2 + len(size))
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = np.frombuffer(file.read(head_size), ">i4").tolist()
            right = len(head) == 2 + len(size) and head[0] == magic and tuple(head[2:]) == size
            if not right or not 0 < head[1] <= MOST_MNIST_IMAGES:
                raise ValueError(f"its head is {head}, must be {[magic, 'N', *size]}")
            wanted = head[1] * math.prod(size)
            data = file.read(wanted + 1)
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise UserError(f"{path}: not a readable MNIST file: {one_line(e)}") from None
    if len(data) != wanted:
        raise UserError(
            f"{path}: not a readable MNIST file: {'more' if len(data) > wanted else 'fewer'} than"
            f" {wanted:,} bytes"
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(head[1], *size).copy())
