"""The digits of scikit-learn's test set, which the package ships."""

from __future__ import annotations

from importlib import resources

import numpy as np
import torch
import torch.nn.functional as F

from .sources import Images, Source, mean_and_std


def digits() -> Source:
    """The embedded handwritten digits, shown as 32x32.

    Image i is a test image if i mod 5 = 0, and a validation image if i mod 10 = 1.
    """
    with (
        resources.as_file(resources.files("biprop.data") / "digits.npz") as path,
        np.load(path, allow_pickle=False) as file,
    ):
        small, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]).long()
    grey = small[:, None].float() * (255 / 16)
    images = (
        F.interpolate(grey, size=(32, 32), mode="bilinear", align_corners=False)
        .round()
        .to(torch.uint8)
    )
    index = torch.arange(len(labels))
    is_test = index % 5 == 0
    everything = Images(images, labels)
    train = everything.subset(~is_test)
    mean, std = mean_and_std(train.images)
    return Source(
        train, everything.subset(is_test), [str(d) for d in range(10)], mean, std, augment="crop",
        held_out=(index % 10 == 1)[~is_test],
    )  # fmt: skip
