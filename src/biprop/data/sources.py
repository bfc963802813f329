"""What all data sets have in common: `Source`, its splits, and where each is read from.

digits        embedded: UCI "Optical Recognition of Handwritten Digits", test part (E. Alpaydin and
              C. Kaynak, 1998; CC BY 4.0, doi.org/10.24432/C50P49), 1,797 images of 8x8 pixels
CIFAR10/100   parquet as on the Hugging Face Hub (columns img {bytes, path} and label, or
              fine_label), in the folder's cifar10/plain_text/ or cifar100/cifar100/ or directly; or
              the official cifar-10-batches-py, cifar-100-python, in the folder or in its cifar10/,
              cifar100/
MNIST         parquet as on the Hub, or the official train-images-idx3-ubyte(.gz) and its three
              companions, in the folder, its MNIST/raw/ or the same in its mnist/
TinyImageNet  the official tiny-imagenet-200, or parquet as on the Hub
any other     what `layouts` recognises: parquet files, or folders of images, in parts or in classes
              only; a fixed fifth of each class is the test set where there is no test part.
              ImageNet is read like this, also from imagenet/ in the folder
hub           whatever the package `datasets` loads
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import FIELDS
from ..errors import UserError
from .items import Listing
from .transfer import on_device

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""(iterable, description, length) -> the same items, while a progress bar is shown."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_SIZE = 224
"""Side of the images in pixels."""
Batches = Iterator[tuple[Tensor, Tensor]]
Indices = NDArray[np.int64]


Expect = Callable[[int, tuple[int, ...]], None]
"""(number of classes, shape of a sample) -> None: called before samples are decoded, so that a
network that does not fit is refused at once.
"""


def expect_nothing(classes: int, shape: tuple[int, ...]) -> None:
    """An `Expect` that accepts all."""


def no_progress(items: Iterable[Any], what: str, length: int) -> Iterable[Any]:
    """A `Progress` that shows nothing."""
    return items


class Split(Protocol):
    """Images and labels of one part: `Images` in memory, or `Streamed`.

    Attributes:
        crops: whether `batches` with a seed yields random crops, so that no further crop is needed.
        labels: [N] int64.
        shape: (C, H, W) of an image in `batches`; (C, ...) of other samples.
    """

    crops: bool

    @property
    def labels(self) -> Tensor:
        """[N] int64."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an image; (channels, ...) of another sample."""

    def __len__(self) -> int: ...
    def subset(self, mask: Tensor) -> Split:
        """The images where `mask` is true, in their order."""

    def to(self, device: torch.device) -> Split:
        """The same images on a device."""

    def order(self, generator: np.random.Generator) -> Indices:
        """The indices [N] int64 of all images, in a random order that is fast to read in."""

    def batches(self, batches: Iterable[Indices], seed: int | None) -> Batches:
        """Batches of the images with these indices: uint8 [B, C, H, W], int64 [B].

        Args:
            batches: indices, one array per batch.
            seed: of random crops where `crops` is true; None for centre crops.
        """


@dataclass(frozen=True)
class Images:
    """Images [N, C, H, W] uint8 and labels [N] int64, in memory; or other samples [N, C, ...], of
    uint8 or float32.
    """

    images: Tensor
    labels: Tensor
    crops = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image."""
        return tuple(self.images.shape[1:])

    def subset(self, mask: Tensor) -> Images:
        """Those where `mask` [N] is true."""
        return Images(self.images[mask], self.labels[mask])

    def to(self, device: torch.device) -> Images:
        """A copy on `device`; the same tensors if they are there already."""
        return Images(self.images.to(device), self.labels.to(device))

    def order(self, generator: np.random.Generator) -> Indices:
        """The indices of all images in a random order."""
        return generator.permutation(len(self))

    def batches(self, batches: Iterable[Indices], seed: int | None) -> Batches:
        """Batches of the images with these indices, as they are: uint8 [B, C, H, W], int64 [B]."""
        for batch in batches:
            index = on_device(batch, self.labels.device)
            yield self.images[index], self.labels[index]


@dataclass
class Parts:
    """The parts of a data set, before an image is decoded.

    Attributes:
        train: the images that are not of the test part.
        test: those of the test part.
        validation: [N] bool, which of `train` are a validation part of the data set's own; None
            where it has none.
        about: what was recognised, for the user.
    """

    train: Listing
    test: Listing
    validation: NDArray[np.bool_] | None
    about: str

    @property
    def notes(self) -> list[str]:
        """What the user should know, a line each."""
        return [*self.train.notes, *self.test.notes]


@dataclass(frozen=True)
class Source:
    """A data set as read, before anything is held out.

    Attributes:
        train, test: its images.
        classes: names, in the order of the labels.
        mean, std: per channel, of pixels in [0, 1]; empty: those of the images that train.
        augment: the default of the data set, as of `Recipe.augment`.
        held_out: [N] bool, which training images are for validation, where the set has a rule or a
            part of its own.
        about: what was recognised in a folder, for the user.
        notes: for the user, a line each.
        is_pixels: values are 0 .. 255; else they are numbers, taken as they are.
    """

    train: Split
    test: Split
    classes: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str
    held_out: Tensor | None = None
    about: str = ""
    notes: list[str] = field(default_factory=list)
    is_pixels: bool = True


def mean_and_std(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of pixels in [0, 1]; the deviation of a constant is
    0.001.

    Args:
        images: [N, C, ...] uint8.
    """
    axes = _axes_but_channels(images)
    count = images.numel() // images.shape[1]
    total = squares = torch.zeros(images.shape[1], dtype=torch.int64)
    for some in images.split(max(1, _MOST_NUMBERS // images[0].numel())):
        values = some.long()
        total = total + values.sum(axes)
        squares = squares + values.square().sum(axes)
    mean = total.double() / count
    variance = (squares.double() - total * mean) / max(1, count - 1)
    std = (variance.clamp(min=0).sqrt() / 255).clamp(min=1e-3)
    return tuple((mean / 255).tolist()), tuple(std.tolist())


def mean_and_std_of_numbers(samples: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, or per feature of a table; the deviation of a
    constant is 1.

    Args:
        samples: [N, C, ...] float32.
    """
    axes = _axes_but_channels(samples)
    means, deviations = [], []
    for channel in samples.split(max(1, _MOST_NUMBERS // len(samples)), dim=1):
        deviation, mean = torch.std_mean(channel.double(), dim=axes, correction=0)
        means += mean.tolist()
        is_constant = deviation <= 1e-12 * mean.abs()
        deviations += deviation.masked_fill(is_constant | (deviation < 1e-30), 1).tolist()
    return tuple(means), tuple(deviations)


def _axes_but_channels(samples: Tensor) -> list[int]:
    return [axis for axis in range(samples.dim()) if axis != 1]


_MOST_NUMBERS = 1 << 22
"""That are converted to 64 bits at a time, but for one sample, or one channel of all samples."""


def checked_folder(folder: Path) -> Path:
    """The folder that --data names.

    Raises:
        UserError: there is none, or it is a file.
    """
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(
            f"--data {folder}: is a file: unpack it, and pass the folder; arrays are read from .npz"
        )
    how = "pass --data DIR, or --set hub for a data set on the Hub"
    if str(folder) == FIELDS["data"].default:
        raise UserError(f"there is no folder {str(folder)!r}, the default of --data; {how}")
    raise UserError(f"--data {folder}: no such folder; {how}")
