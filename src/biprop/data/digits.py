"""The handwritten digits that the package includes, as does scikit-learn."""

from __future__ import annotations

from importlib import resources

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .sources import Images, Source, mean_and_std


def digits() -> Source:
    """The embedded handwritten digits: 8x8 images of 17 grey values, scaled to 32x32.

    Image i is a test image if i mod 5 = 0, and a validation image if i mod 10 = 1.

    Returns:
        `train` (1,437 images, validation images included) and `test` (360), each with `images`
        [N, 1, 32, 32] uint8 and `labels` [N] int64; `classes`, `mean` and `std`.
    """
    small, labels = _embedded()
    grey = small[:, None].float() * (255 / 16)
    large = F.interpolate(grey, size=(32, 32), mode="bilinear", align_corners=False)
    all_images = Images(large.round().to(torch.uint8), labels)
    index = torch.arange(len(labels))
    is_test, is_validation = index % 5 == 0, index % 10 == 1
    train = all_images.subset(~is_test)
    mean, std = mean_and_std(train.images)
    return Source(
        train,
        all_images.subset(is_test),
        [str(digit) for digit in range(10)],
        mean,
        std,
        augment="crop",
        held_out=is_validation[~is_test],
    )


def _embedded() -> tuple[Tensor, Tensor]:
    """Images [N, 8, 8] of values 0 .. 16, and labels [N] int64."""
    with (
        resources.as_file(resources.files("biprop.data") / "digits.npz") as path,
        np.load(path, allow_pickle=False) as file,
    ):
        return torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]).long()
