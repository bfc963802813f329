"""CIFAR-10 and CIFAR-100: the official batches, or parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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


# the Hub's folder, the official one, its file of names, and the keys of labels and names there
_CIFAR = {
    "CIFAR10": ("plain_text", "cifar-10-batches-py", "batches.meta", "labels", "label_names"),
    "CIFAR100": ("cifar100", "cifar-100-python", "meta", "fine_labels", "fine_label_names"),
}
_CIFAR_FILES = {
    "CIFAR10": ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]),
    "CIFAR100": (["train"], ["test"]),
}
"""Training and test files of the official folders."""


def cifar(folder: Path, name: str, progress: Progress = no_progress) -> Source:
    """CIFAR-10 or CIFAR-100 from parquet files or the official folder.

    Raises:
        UserError: neither layout is there, or a file is damaged.
    """
    hub, official, meta, *_ = _CIFAR[name]
    homes = layouts.places(checked_folder(folder), name)
    for place in [inside for home in reversed(homes) for inside in (home / hub, home)]:
        if place.is_dir() and any(place.glob("train-*.parquet")):
            train, test, classes = _parquet_cifar(place, name, progress)
            break
    else:
        found = [
            inside
            for home in homes
            for inside in (home / official, home)
            if (inside / meta).is_file()
        ]
        if not found:
            parquet = f"{name.lower()}/{hub}/train-*.parquet"
            raise UserError(f"--data {folder}: no {name} there: expected {parquet} or {official}/")
        train, test, classes = _official_cifar(found[0], name)
    check_labels(train.labels, len(classes), folder)
    check_labels(test.labels, len(classes), folder)
    return Source(train, test, classes, CIFAR_MEAN, CIFAR_STD, augment="crop+flip")


def _parquet_cifar(place: Path, name: str, progress: Progress) -> tuple[Images, Images, list[str]]:
    default = CIFAR10_CLASSES if name == "CIFAR10" else [str(i) for i in range(100)]
    parts = parquet_parts(place, default)
    if len(parts.train.classes) != len(default):
        raise UserError(
            f"{place}: has {len(parts.train.classes)} classes, and {name} {len(default)}: pass"
            " --set folder"
        )
    train, test = (decode_all(part, None, progress, "RGB") for part in (parts.train, parts.test))
    return train, test, parts.train.classes


def check_labels(labels: Tensor, classes: int, place: Path) -> None:
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise UserError(
            f"{place}: labels run from {int(labels.min())} to {int(labels.max())}, but there are"
            f" {classes} classes"
        )


def _official_cifar(folder: Path, name: str) -> tuple[Images, Images, list[str]]:
    _, _, meta, label_key, names_key = _CIFAR[name]
    classes = pickles.load(folder / meta).get(names_key)
    wanted = 10 if name == "CIFAR10" else 100
    if not (
        isinstance(classes, list)
        and len(classes) == wanted
        and all(isinstance(c, str) for c in classes)
    ):
        raise UserError(
            f"{folder / meta}: not a readable CIFAR batch: {names_key} must be the names of"
            f" {wanted} classes"
        )
    train, test = (_cifar_batches(folder, files, label_key) for files in _CIFAR_FILES[name])
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
    pixels, labels = batch.get("data"), batch.get(label_key)
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.shape[1:] not in ((3072,), (3, 32, 32))
    ):
        found = (
            f"{pixels.dtype} {list(pixels.shape)}"
            if isinstance(pixels, np.ndarray)
            else type(pixels).__name__
        )
        raise UserError(
            f"{path}: not a readable CIFAR batch: data is {found}, must be uint8 [N, 3072], the"
            " rows of red, of green and of blue"
        )
    labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if not isinstance(labels, list) or not all(
        type(label) is int and 0 <= label < 100 for label in labels
    ):
        raise UserError(
            f"{path}: not a readable CIFAR batch: {label_key} must be a list of class numbers"
        )
    if len(labels) != len(pixels):
        raise UserError(
            f"{path}: not a readable CIFAR batch: {len(pixels):,} images and {len(labels):,} labels"
        )
    return pixels.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)
