"""Corrupted test images: generated, or published ones from files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data import DataSet, slices, spread
from ..data.items import list_classes
from ..errors import UserError, one_line
from ..images import read
from ..names import escaped
from .corruptions import corrupt
from .scores import Cell
from .severities import SEVERITIES

Batches = Iterator[tuple[Tensor, Tensor]]


class Corrupted(Protocol):
    """Where corrupted images come from.

    Attributes:
        told: in words.
    """

    told: str

    def batches(self, name: str, severity: int) -> Batches: ...


class Generated:
    """Test images, corrupted here.

    Args:
        images: the data set.
        numbers: which of its test images.
        batch: images at a time.
        seed: of all corruptions.
    """

    def __init__(self, images: DataSet, numbers: NDArray[np.int64], batch: int, seed: int) -> None:
        self._images, self._numbers, self._batch, self._seed = images, numbers, batch, seed
        self.told = (
            f"corrupted here, from {len(numbers):,} test images (seed {seed}); not the published"
            " files"
        )

    def clean(self) -> Batches:
        """The images as they are."""
        return self._images.test.batches(slices(self._numbers, self._batch), None)

    def batches(self, name: str, severity: int) -> Batches:
        """Images [B, C, H, W] uint8 and labels [B]; an image's corruption follows from its number
        in the test set.
        """
        for (pixels, labels), numbers in zip(
            self.clean(), slices(self._numbers, self._batch), strict=True
        ):
            yield corrupt(pixels, name, severity, self._seed, numbers.tolist()), labels


class PublishedArrays:
    """CIFAR-10-C and CIFAR-100-C as published: NAME.npy [5 N, H, W, 3] uint8, severity by severity,
    and labels.npy [5 N] or [N].

    Files are mapped, not read: a batch at a time is in memory.

    Args:
        folder: with the files.
        names: corruptions, whose files must be there.
        shape: (channels, height, width) of images.
        classes: how many there are.
        most: images to use of each severity, evenly spaced.
        batch: images at a time.

    Raises:
        UserError: a file is missing, damaged, or of another size than the others.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        shape: tuple[int, int, int],
        classes: int,
        most: int,
        batch: int,
    ) -> None:
        labels = _array(folder / "labels.npy")
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
            raise UserError(
                f"{folder / 'labels.npy'}: {labels.dtype} {list(labels.shape)}: must be a list of"
                " class numbers"
            )
        odd = labels[(labels < 0) | (labels >= classes)]
        if len(odd):
            raise UserError(
                f"{folder / 'labels.npy'}: class {int(odd[0])}: the network knows 0 .."
                f" {classes - 1}"
            )
        self._arrays = {name: _array(folder / f"{name}.npy") for name in names}
        channels, height, width = shape
        for name, array in self._arrays.items():
            if array.dtype != np.uint8 or array.shape[1:] != (height, width, channels):
                raise UserError(
                    f"{folder / name}.npy: {array.dtype} {list(array.shape)}: must be uint8 [5 N,"
                    f" {height}, {width}, {channels}]"
                )
            if (
                not len(array)
                or len(array) % len(SEVERITIES)
                or len(labels) not in (len(array), len(array) // len(SEVERITIES))
            ):
                counts = f"{len(array):,} images, and {len(labels):,} labels in labels.npy"
                raise UserError(
                    f"{folder / name}.npy: {counts}: must be five times N images, and as many"
                    " labels, or N"
                )
        self._labels, self._batch = labels.astype(np.int64), batch
        count = len(next(iter(self._arrays.values()))) // len(SEVERITIES)
        if len(labels) > count and (labels.reshape(len(SEVERITIES), count) != labels[:count]).any():
            raise UserError(
                f"{folder / 'labels.npy'}: the severities have different labels: must be the same"
                " images five times, by severity"
            )
        self._numbers = spread(count, most)
        self.told = f"published files in {folder}, {len(self._numbers):,} images each"

    def batches(self, name: str, severity: int) -> Batches:
        """Images [B, C, H, W] uint8 and labels [B]."""
        array = self._arrays[name]
        first = (severity - 1) * (len(array) // len(SEVERITIES))
        for numbers in slices(self._numbers, self._batch):
            at = numbers + first
            labels = self._labels[at if len(self._labels) == len(array) else numbers]
            yield torch.from_numpy(array[at].transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)


class PublishedFolders:
    """ImageNet-C as published: NAME/SEVERITY/CLASS/*.JPEG, or GROUP/NAME/SEVERITY/CLASS/*.JPEG;
    read while measuring.

    Pictures of the network's size are taken as they are, others are cut as test images are.
    Arguments as of `PublishedArrays`, with the names of the classes.

    Raises:
        UserError: a folder is missing, or has other classes.
    """

    def __init__(
        self,
        folder: Path,
        cells: Sequence[Cell],
        shape: tuple[int, int, int],
        classes: Sequence[str],
        most: int,
        batch: int,
    ) -> None:
        self._shape, self._batch = shape, batch
        self._cells: dict[Cell, tuple[list[Path], NDArray[np.int64]]] = {}
        for name, severity in cells:
            above = [p for p in (folder / name, *sorted(folder.glob(f"*/{name}"))) if p.is_dir()]
            place = (above[0] if above else folder / name) / str(severity)
            if not place.is_dir():
                raise UserError(
                    f"{place}: no such folder; --corrupted wants NAME.npy and labels.npy, or"
                    " NAME/SEVERITY/CLASS/"
                )
            listing = list_classes(place)
            names = list(map(escaped, listing.classes))
            if names != list(classes):
                odd = sorted(set(names) ^ set(classes))
                raise UserError(f"{place}: other classes than the network's: {', '.join(odd[:5])}")
            numbers = spread(len(listing.labels), most)
            self._cells[name, severity] = (
                [Path(listing.items.read(i)) for i in numbers],
                listing.labels[numbers],
            )  # type: ignore[arg-type]
        self.told = (
            f"published pictures in {folder}, {len(next(iter(self._cells.values()))[0]):,} each"
        )

    def batches(self, name: str, severity: int) -> Batches:
        """Images [B, C, H, W] uint8 and labels [B]."""
        paths, labels = self._cells[name, severity]
        with ThreadPoolExecutor() as pool:  # decoders leave Python's lock
            for numbers in slices(np.arange(len(paths)), self._batch):
                pixels = pool.map(lambda i: read(paths[i], self._shape, cut=True), numbers)
                yield torch.from_numpy(np.stack(list(pixels))), torch.from_numpy(labels[numbers])


def published(
    folder: str | Path,
    cells: Sequence[Cell],
    shape: tuple[int, int, int],
    classes: Sequence[str],
    most: int,
    batch: int,
) -> Corrupted:
    """What lies in a folder: `PublishedArrays` or `PublishedFolders`.

    Raises:
        UserError: see there; or no such folder.
    """
    place = Path(folder)
    if not place.is_dir():
        raise UserError(f"--corrupted {folder}: no such folder")
    if any(place.glob("*.npy")):
        names = list(dict.fromkeys(name for name, _ in cells))
        return PublishedArrays(place, names, shape, len(classes), most, batch)
    return PublishedFolders(place, cells, shape, classes, most, batch)


def _array(path: Path) -> NDArray[Any]:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror or one_line(e)}") from None
    except (ValueError, EOFError) as e:
        raise UserError(f"{path}: not a numpy file: {one_line(e)}") from None
    if not isinstance(found, np.ndarray):  # an archive
        raise UserError(f"{path}: not a numpy file of one array")
    return found
