"""Tiny ImageNet in its own layout, or parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import UserError, one_line
from . import layouts
from .decoding import decode_all
from .items import Files, Listing, list_classes
from .listings import find_listings
from .sources import IMAGENET_MEAN, IMAGENET_STD, Progress, Source, checked_folder, no_progress

ANNOTATIONS = Path("val", "val_annotations.txt")
"""The file that the official layout is recognised by."""


def tiny_imagenet(folder: Path, progress: Progress = no_progress) -> Source:
    """TinyImageNet: 200 classes of 64x64 pixels; its labelled validation part is the test set.

    Raises:
        UserError: no known layout is there, or an image is damaged.
    """
    homes = layouts.places(
        checked_folder(folder), "tiny-imagenet-200", "TinyImageNet", "tiny-imagenet"
    )
    candidates = [place for home in homes for place in (home, home / "tiny-imagenet-200")]
    official = next((place for place in candidates if (place / ANNOTATIONS).is_file()), None)
    if official:
        train = list_classes(official / "train")
        test = _annotated(official, train.classes)
    else:
        parts = find_listings(homes[-1])
        train, test = parts.train, parts.test
    train_images, test_images = (decode_all(part, None, progress, "RGB") for part in (train, test))
    return Source(
        train_images, test_images, train.classes, IMAGENET_MEAN, IMAGENET_STD, augment="crop+flip"
    )


def _annotated(official: Path, classes: Sequence[str]) -> Listing:
    """The official validation part: images in one folder, and a file of their classes.

    Raises:
        UserError: the file is damaged, names no image, or names an unknown class.
    """
    annotations = official / ANNOTATIONS
    number = {name: i for i, name in enumerate(classes)}
    try:
        lines = annotations.read_text(encoding="utf-8").splitlines()
        pairs = [_file_and_class(line) for line in lines if line.strip()]
        labels = np.array([number[name] for _, name in pairs], dtype=np.int64)
    except KeyError as e:
        raise UserError(f"{annotations}: names class {e}, which is not in train/") from None
    except (OSError, ValueError) as e:
        raise UserError(
            f"{annotations}: must have an image's name and its class in each line: {one_line(e)}"
        ) from None
    if not pairs:
        raise UserError(f"{annotations}: names no image")
    folder = official / "val" / "images"
    return Listing(Files([folder / file for file, _ in pairs]), labels, list(classes))


def _file_and_class(line: str) -> tuple[str, str]:
    file, name, *_ = line.split()
    return file, name
