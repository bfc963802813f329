"""Image data for a run: loaded once into uint8 tensors, split, and given out in normalised batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import rng
from ..errors import UserError
from . import augment, sources
from .sources import Images, Progress, Source, no_progress

CROP_PADDING = 4


class DataSet:
    """Images for training, validation and test, with what a network must know of them.

    Attributes:
        train, validation, test: `Images`. The validation images are held out of the training images by a rule that no seed
            changes; with `select_on="test"` nothing is held out and `validation` is the test set, as in the papers.
        classes: names, in the order of the labels.
        mean, std: per channel, of pixels in [0, 1].
        augment: "none", "crop", "flip" or "crop+flip".
    """

    def __init__(self, source: Source, select_on: str = "validation", augment: str = "auto") -> None:
        held_out = source.held_out if source.held_out is not None else _held_out(len(source.train))
        if select_on == "test":
            self.train, self.validation = source.train, source.test
        else:
            self.train, self.validation = source.train.subset(~held_out), source.train.subset(held_out)
        self.test = source.test
        self.classes, self.mean, self.std = source.classes, source.mean, source.std
        self.augment = source.augment if augment == "auto" else augment

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def input_size(self) -> tuple[int, int]:
        height, width = self.train.images.shape[2:]
        return height, width

    def to(self, device: torch.device) -> DataSet:
        """Move all images to `device`, in place."""
        self.train, self.validation, self.test = (split.to(device) for split in (self.train, self.validation, self.test))
        return self

    def training_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of (images [B, C, H, W] float32 normalised, labels [B] int64), shuffled and augmented.

        Order and augmentation follow from (seed, epoch, step) alone. A last batch of a single image is left out: batch norm
        cannot train on it.
        """
        order_seed = rng.derive(seed, rng.Stream.SHUFFLE, epoch)
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(order_seed))
        for step, start in enumerate(range(0, len(order), batch_size)):
            index = order[start : start + batch_size].to(self.train.labels.device)
            if len(index) == 1 and start > 0:
                return
            generator = torch.Generator().manual_seed(rng.derive(seed, rng.Stream.AUGMENT, epoch, step))
            images = self.train.images[index]
            if "crop" in self.augment:
                images = augment.random_crop(images, CROP_PADDING, generator)
            if "flip" in self.augment:
                images = augment.random_flip(images, generator)
            yield self.normalise(images), self.train.labels[index]

    def evaluation_batches(self, split: Images, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images of a split in order, as (images [B, C, H, W] float32 normalised, labels [B] int64)."""
        for start in range(0, len(split), batch_size):
            stop = start + batch_size
            yield self.normalise(split.images[start:stop]), split.labels[start:stop]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] to float32: (pixel / 255 - mean) / std."""
        mean, std = (torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return images.float().div_(255).sub_(mean).div_(std)


def _held_out(count: int) -> Tensor:
    """A tenth of `count` images, chosen by the generator at a fixed seed: bool [count]."""
    order = np.argsort(rng.words(0, 0, count, rng.Stream.SPLIT), kind="stable")
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.from_numpy(order[: max(1, count // 10)])] = True
    return mask


def load(
    name: str,
    folder: str | Path = "data",
    *,
    select_on: str = "validation",
    augment: str = "auto",
    image_size: int | None = None,
    progress: Progress = no_progress,
) -> DataSet:
    """Load a data set into memory.

    Args:
        name: digits (embedded), CIFAR10, CIFAR100, or folder (one folder of images per class).
        folder: where the data are; see `sources` for the layouts.
        select_on: "validation" holds out training images, "test" does not.
        augment: "auto" (what suits the set), "none", "crop", "flip" or "crop+flip".
        image_size: for `folder`: resize to squares of this many pixels.
        progress: wraps a long iteration.

    Raises:
        UserError: the data are missing, damaged, or no classification task.
    """
    if name == "digits":
        source = sources.digits()
    elif name in ("CIFAR10", "CIFAR100"):
        source = sources.cifar(Path(folder), name, progress)
    elif name == "folder":
        source = sources.image_folder(Path(folder), image_size, progress)
    else:
        raise UserError(f"set = {name!r}: must be one of digits, CIFAR10, CIFAR100, folder")
    return DataSet(source, select_on, augment)
