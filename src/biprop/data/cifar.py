"""CIFAR-10 and CIFAR-100: the official batches, or parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from . import layouts, pickles
from .decoding import decode_all
from .listings import parquet_parts
from .sources import Images, Progress, Source, checked_folder, no_progress

CIFAR_MEAN, CIFAR_STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)

CIFAR10_CLASSES = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]


@dataclass(frozen=True)
class _Layout:
    """Where one of the two data sets is found.

    Attributes:
        hub, official: folders of the Hub's and the official files.
        meta: official file of the names of the classes.
        label_key, names_key: keys in the official files.
        train, test: official files of images.
        classes: names of the classes where no file has them.
    """

    hub: str
    official: str
    meta: str
    label_key: str
    names_key: str
    train: list[str]
    test: list[str]
    classes: list[str]


_LAYOUTS = {
    "CIFAR10": _Layout(
        hub="plain_text",
        official="cifar-10-batches-py",
        meta="batches.meta",
        label_key="labels",
        names_key="label_names",
        train=[f"data_batch_{i}" for i in range(1, 6)],
        test=["test_batch"],
        classes=CIFAR10_CLASSES,
    ),
    "CIFAR100": _Layout(
        hub="cifar100",
        official="cifar-100-python",
        meta="meta",
        label_key="fine_labels",
        names_key="fine_label_names",
        train=["train"],
        test=["test"],
        classes=[str(i) for i in range(100)],
    ),
}


def cifar(folder: Path, name: str, progress: Progress = no_progress) -> Source:
    """CIFAR-10 or CIFAR-100 from parquet files or the official folder.

    Args:
        folder: with the data set, or with other data sets too.
        name: "CIFAR10" or "CIFAR100".
        progress: shows the progress of decoding.

    Raises:
        UserError: neither layout is there, or a file is damaged.
    """
    layout = _LAYOUTS[name]
    homes = layouts.places(checked_folder(folder), name)
    parquet = next((place for place in _parquet_places(homes, layout) if _has_train(place)), None)
    if parquet:
        train, test, classes = _parquet_cifar(parquet, name, progress)
    else:
        train, test, classes = _official_cifar(_official_folder(folder, homes, name), name)
    check_labels(train.labels, len(classes), folder)
    check_labels(test.labels, len(classes), folder)
    return Source(train, test, classes, CIFAR_MEAN, CIFAR_STD, augment="crop+flip")


def _parquet_places(homes: Sequence[Path], layout: _Layout) -> list[Path]:
    """Folders that may have parquet files, in the order in which they count."""
    return [place for home in reversed(homes) for place in (home / layout.hub, home)]


def _has_train(place: Path) -> bool:
    return place.is_dir() and any(place.glob("train-*.parquet"))


def _official_folder(folder: Path, homes: Sequence[Path], name: str) -> Path:
    """The folder of the official files.

    Raises:
        UserError: there is none.
    """
    layout = _LAYOUTS[name]
    for place in [place for home in homes for place in (home / layout.official, home)]:
        if (place / layout.meta).is_file():
            return place
    parquet = f"{name.lower()}/{layout.hub}/train-*.parquet"
    raise UserError(
        f"--data {folder}: no {name} there: expected {parquet} or {layout.official}/"
        "; for other images pass --set folder"
    )


def _parquet_cifar(place: Path, name: str, progress: Progress) -> tuple[Images, Images, list[str]]:
    """Training and test images, and names of the classes, from parquet files."""
    default = _LAYOUTS[name].classes
    parts = parquet_parts(place, default)
    if len(parts.train.classes) != len(default):
        raise UserError(
            f"{place}: has {len(parts.train.classes)} classes, and {name} {len(default)}: pass"
            " --set folder"
        )
    train, test = (decode_all(part, None, progress, "RGB") for part in (parts.train, parts.test))
    return train, test, parts.train.classes


def check_labels(labels: Tensor, classes: int, place: Path) -> None:
    """Raise UserError unless all labels are 0 .. classes - 1."""
    if not len(labels):
        return
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        raise UserError(
            f"{place}: labels run from {lowest} to {highest}, but there are {classes} classes"
        )


def _official_cifar(folder: Path, name: str) -> tuple[Images, Images, list[str]]:
    """Training and test images, and names of the classes, from the official files."""
    layout = _LAYOUTS[name]
    classes: Any = pickles.load(folder / layout.meta).get(layout.names_key)
    count = len(layout.classes)
    is_right = isinstance(classes, list) and len(classes) == count
    if not is_right or not all(isinstance(name, str) for name in classes):
        raise UserError(
            f"{folder / layout.meta}: not a readable CIFAR batch: {layout.names_key} must be the"
            f" names of {count} classes"
        )
    train, test = (
        _cifar_batches(folder, files, layout.label_key) for files in (layout.train, layout.test)
    )
    return train, test, classes


def _cifar_batches(folder: Path, files: Sequence[str], label_key: str) -> Images:
    batches = [_cifar_batch(folder / file, label_key) for file in files]
    images, labels = (torch.from_numpy(np.concatenate(part)) for part in zip(*batches, strict=True))
    return Images(images, labels)


def _cifar_batch(path: Path, label_key: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [N, 3, 32, 32] and labels [N] of one file.

    Raises:
        UserError: it is damaged, or its arrays are of another type, shape or number.
    """
    batch = pickles.load(path)
    pixels = _checked_pixels(batch.get("data"), path)
    labels = _checked_labels(batch.get(label_key), label_key, path)
    if len(labels) != len(pixels):
        raise UserError(
            f"{path}: not a readable CIFAR batch: {len(pixels):,} images and {len(labels):,} labels"
        )
    return pixels.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _checked_pixels(pixels: Any, path: Path) -> NDArray[np.uint8]:
    """The array, if it is uint8 [N, 3072] or [N, 3, 32, 32]."""
    is_array = isinstance(pixels, np.ndarray)
    if is_array and pixels.dtype == np.uint8 and pixels.shape[1:] in ((3072,), (3, 32, 32)):
        return pixels  # type: ignore[no-any-return]
    kind = f"{pixels.dtype} {list(pixels.shape)}" if is_array else type(pixels).__name__
    raise UserError(
        f"{path}: not a readable CIFAR batch: data is {kind}, must be uint8 [N, 3072], the"
        " rows of red, of green and of blue"
    )


def _checked_labels(labels: Any, label_key: str, path: Path) -> list[int]:
    """The labels as a list, if they are class numbers."""
    labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
    is_list = isinstance(labels, list)
    if not is_list or not all(type(label) is int and 0 <= label < 100 for label in labels):
        raise UserError(
            f"{path}: not a readable CIFAR batch: {label_key} must be a list of class numbers"
        )
    return labels  # type: ignore[no-any-return]
