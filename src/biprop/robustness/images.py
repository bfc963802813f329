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

from ..data import Split, slices, spread
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
        description: of the source, for people.
    """

    description: str

    def batches(self, name: str, severity: int) -> Batches:
        """Images [B, C, H, W] uint8 and labels [B] int64 under a corruption."""
        ...


class Generated(Corrupted):
    """Test images, corrupted here.

    Args:
        images: of the test set.
        numbers: of those to use, [N] int64.
        batch: batch size.
        seed: of all corruptions, 0 .. 2**64 - 1.
        device: on which corruptions are computed.
    """

    def __init__(
        self,
        images: Split,
        numbers: NDArray[np.int64],
        batch: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._images, self._numbers, self._batch, self._seed = images, numbers, batch, seed
        self._device = torch.device(device)
        self.description = (
            f"corrupted here, from {len(numbers):,} test images (seed {seed}); not the published"
            " files"
        )

    def clean(self) -> Batches:
        """The images as they are: [B, C, H, W] uint8, and labels [B] int64."""
        return self._images.batches(slices(self._numbers, self._batch), None)

    def batches(self, name: str, severity: int) -> Batches:
        """Images [B, C, H, W] uint8 and labels [B] int64 under a corruption.

        An image's corruption follows from its number in the test set.
        """
        numbers = slices(self._numbers, self._batch)
        for (pixels, labels), of_batch in zip(self.clean(), numbers, strict=True):
            on_device = pixels.to(self._device)
            yield corrupt(on_device, name, severity, self._seed, of_batch.tolist()), labels


class PublishedArrays(Corrupted):
    """CIFAR-10-C and CIFAR-100-C as published: NAME.npy [5 N, H, W, 3] uint8, severity by severity,
    and labels.npy [5 N] or [N].

    Files are mapped, not read: a batch at a time is in memory.

    Args:
        folder: with the files.
        names: corruptions, whose files must be there.
        shape: (channels, height, width) of images.
        classes: number of classes.
        most: images to use of each severity, evenly spaced.
        batch: batch size.

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
        labels = _labels(folder / "labels.npy", classes)
        self._arrays = {name: _array(folder / f"{name}.npy") for name in names}
        for name, array in self._arrays.items():
            _check_images(f"{folder / name}.npy", array, shape, len(labels))
        count = len(next(iter(self._arrays.values()))) // len(SEVERITIES)
        _check_repetition(folder / "labels.npy", labels, count)
        self._labels, self._batch = labels.astype(np.int64), batch
        self._numbers = spread(count, most)
        self.description = f"published files in {folder}, {len(self._numbers):,} images each"

    def batches(self, name: str, severity: int) -> Batches:
        """Images [B, C, H, W] uint8 and labels [B] int64 under a corruption."""
        array = self._arrays[name]
        first = (severity - 1) * (len(array) // len(SEVERITIES))
        for numbers in slices(self._numbers, self._batch):
            at = numbers + first
            labels = self._labels[at if len(self._labels) == len(array) else numbers]
            pixels = array[at].transpose(0, 3, 1, 2).copy()
            yield torch.from_numpy(pixels), torch.from_numpy(labels)


def _labels(path: Path, classes: int) -> NDArray[Any]:
    """Class numbers [5 N] or [N]."""
    labels = _array(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise UserError(
            f"{path}: {labels.dtype} {list(labels.shape)}: must be a list of class numbers"
        )
    impossible = labels[(labels < 0) | (labels >= classes)]
    if len(impossible):
        raise UserError(f"{path}: class {int(impossible[0])}: the network knows 0 .. {classes - 1}")
    return labels


def _check_images(path: str, array: NDArray[Any], shape: tuple[int, int, int], labels: int) -> None:
    """Check an array of images [5 N, H, W, C] for `labels` labels."""
    channels, height, width = shape
    if array.dtype != np.uint8 or array.shape[1:] != (height, width, channels):
        raise UserError(
            f"{path}: {array.dtype} {list(array.shape)}: must be uint8 [5 N, {height}, {width},"
            f" {channels}]"
        )
    count, rest = divmod(len(array), len(SEVERITIES))
    if not count or rest or labels not in (len(array), count):
        counts = f"{len(array):,} images, and {labels:,} labels in labels.npy"
        raise UserError(f"{path}: {counts}: must be five times N images, and as many labels, or N")


def _check_repetition(path: Path, labels: NDArray[Any], count: int) -> None:
    """Check that all severities have the same `count` labels."""
    if len(labels) > count and (labels.reshape(len(SEVERITIES), count) != labels[:count]).any():
        raise UserError(
            f"{path}: the severities have different labels: must be the same images five times, by"
            " severity"
        )


class PublishedFolders(Corrupted):
    """ImageNet-C as published: NAME/SEVERITY/CLASS/*.JPEG, or GROUP/NAME/SEVERITY/CLASS/*.JPEG.

    Images are read while measuring. Those of the network's size are taken as they are, others are
    scaled and cropped as test images are.

    Args:
        folder: with the folders.
        cells: corruptions and severities, whose folders must be there.
        shape: (channels, height, width) of images.
        classes: names of the network's classes, in order.
        most: images to use of each folder, evenly spaced.
        batch: batch size.

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
        self._cells = {cell: _listed(_folder_of(folder, cell), classes, most) for cell in cells}
        paths, _ = next(iter(self._cells.values()))
        self.description = f"published images in {folder}, {len(paths):,} each"

    def batches(self, name: str, severity: int) -> Batches:
        """Images [B, C, H, W] uint8 and labels [B] int64 under a corruption."""
        paths, labels = self._cells[name, severity]
        with ThreadPoolExecutor() as pool:  # decoders leave Python's lock
            for numbers in slices(np.arange(len(paths)), self._batch):
                pixels = pool.map(lambda i: read(paths[i], self._shape, cut=True), numbers)
                yield torch.from_numpy(np.stack(list(pixels))), torch.from_numpy(labels[numbers])


def _folder_of(folder: Path, cell: Cell) -> Path:
    """The folder of a corruption and severity, directly in `folder` or in that of its group."""
    name, severity = cell
    candidates = [folder / name, *sorted(folder.glob(f"*/{name}"))]
    of_name = next((path for path in candidates if path.is_dir()), folder / name)
    place = of_name / str(severity)
    if not place.is_dir():
        raise UserError(
            f"{place}: no such folder; --corrupted wants NAME.npy and labels.npy, or"
            " NAME/SEVERITY/CLASS/"
        )
    return place


def _listed(place: Path, classes: Sequence[str], most: int) -> tuple[list[Path], NDArray[np.int64]]:
    """Paths and labels of at most `most` images of a folder of classes."""
    listing = list_classes(place)
    names = list(map(escaped, listing.classes))
    if names != list(classes):
        differing = sorted(set(names) ^ set(classes))
        raise UserError(f"{place}: other classes than the network's: {', '.join(differing[:5])}")
    numbers = spread(len(listing.labels), most)
    paths = [Path(listing.items.read(i)) for i in numbers]  # type: ignore[arg-type]
    return paths, listing.labels[numbers]


def published(
    folder: str | Path,
    cells: Sequence[Cell],
    shape: tuple[int, int, int],
    classes: Sequence[str],
    most: int,
    batch: int,
) -> Corrupted:
    """The published images in a folder; arguments as of `PublishedFolders`.

    Returns:
        `PublishedArrays` where there are numpy files, else `PublishedFolders`.

    Raises:
        UserError: no such folder, or what these raise.
    """
    place = Path(folder)
    if not place.is_dir():
        raise UserError(f"--corrupted {folder}: no such folder")
    if any(place.glob("*.npy")):
        names = list(dict.fromkeys(name for name, _ in cells))
        return PublishedArrays(place, names, shape, len(classes), most, batch)
    return PublishedFolders(place, cells, shape, classes, most, batch)


def _array(path: Path) -> NDArray[Any]:
    """The array of a numpy file, mapped into memory."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror or one_line(e)}") from None
    except (ValueError, EOFError) as e:
        raise UserError(f"{path}: not a numpy file: {one_line(e)}") from None
    if not isinstance(array, np.ndarray):  # an archive
        raise UserError(f"{path}: not a numpy file of one array")
    return array
