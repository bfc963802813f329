"""Tiny ImageNet in its own layout, or parquet files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import UserError, one_line
from . import layouts
from .decoding import decode_all
from .items import Files, Listing, list_classes
from .listings import find_listings
from .sources import IMAGENET_MEAN, IMAGENET_STD, Progress, Source, checked_folder, no_progress


def tiny_imagenet(folder: Path, progress: Progress = no_progress) -> Source:
    """TinyImageNet: 200 classes of 64x64 pixels; its labelled validation part is the test set.

    Raises:
        UserError: no known layout is there, or an image is damaged.
    """
    homes = layouts.places(
        checked_folder(folder), "tiny-imagenet-200", "TinyImageNet", "tiny-imagenet"
    )
    candidates = [place for home in homes for place in (home, home / "tiny-imagenet-200")]
    official = next((p for p in candidates if (p / "val" / "val_annotations.txt").is_file()), None)
    if official:
        train = list_classes(official / "train")
        annotations = official / "val" / "val_annotations.txt"
        number = {name: i for i, name in enumerate(train.classes)}
        try:
            lines = annotations.read_text(encoding="utf-8").splitlines()
            named = [
                (file, name) for file, name, *_ in (line.split() for line in lines if line.strip())
            ]
            labels = np.array([number[name] for _, name in named], dtype=np.int64)
        except KeyError as e:
            raise UserError(f"{annotations}: names class {e}, which is not in train/") from None
        except (OSError, ValueError) as e:
            raise UserError(
                f"{annotations}: must have an image's name and its class in each line:"
                f" {one_line(e)}"
            ) from None
        if not named:
            raise UserError(f"{annotations}: names no image")
        test = Listing(
            Files([official / "val" / "images" / file for file, _ in named]), labels, train.classes
        )
    else:
        parts = find_listings(homes[-1])
        train, test = parts.train, parts.test
    train_images, test_images = (decode_all(part, None, progress, "RGB") for part in (train, test))
    return Source(
        train_images, test_images, train.classes, IMAGENET_MEAN, IMAGENET_STD, augment="crop+flip"
    )
