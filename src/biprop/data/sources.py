"""Where images come from: each function reads one data set.

digits        embedded: UCI "Optical Recognition of Handwritten Digits", test part (E. Alpaydin and C. Kaynak, 1998; CC BY 4.0,
              doi.org/10.24432/C50P49), 1,797 images of 8x8 pixels
CIFAR10/100   parquet as on the Hugging Face Hub (columns img {bytes, path} and label, or fine_label), below the folder at
              cifar10/plain_text/ or cifar100/cifar100/ or directly; or the official cifar-10-batches-py, cifar-100-python
MNIST         parquet as on the Hub, or the official train-images-idx3-ubyte(.gz) and its three companions
TinyImageNet  the official tiny-imagenet-200, or parquet as on the Hub
any other     parquet files train-*.parquet and test-* or validation-*; or train/CLASS/*.png and test/CLASS/*.png (or val/); or
              one of the two without a test part, a fixed fifth of which is then the test set. ImageNet is read like this
hub           whatever the package `datasets` loads
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .. import rng
from ..errors import UserError, one_line
from .items import Files, Items, Listing, list_classes, list_hub, list_parquet
from .stream import Streamed

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""(iterable, what it does, length) -> the same items, while showing how far it is."""

CIFAR_MEAN, CIFAR_STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGENET_SIZE = 224


def no_progress(items: Iterable[Any], what: str, length: int) -> Iterable[Any]:
    """A `Progress` that shows nothing."""
    return items


class Split(Protocol):
    """Images and labels of one part: `Images` in memory, or `Streamed`.

    Attributes:
        cuts: whether `batches` with a seed cuts the pictures at random, so that no further crop is wanted.
        labels: [N] int64.
        shape: (C, H, W) of what is given out.
    """

    cuts: bool

    @property
    def labels(self) -> Tensor: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    def __len__(self) -> int: ...
    def subset(self, mask: Tensor) -> Split: ...
    def to(self, device: torch.device) -> Split: ...
    def order(self, generator: np.random.Generator) -> NDArray[np.int64]: ...
    def batches(self, batches: Iterable[NDArray[np.int64]], seed: int | None) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class Images:
    """Images [N, C, H, W] uint8 and labels [N] int64, in memory."""

    images: Tensor
    labels: Tensor
    cuts = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def subset(self, mask: Tensor) -> Images:
        """Those where `mask` [N] is true."""
        return Images(self.images[mask], self.labels[mask])

    def to(self, device: torch.device) -> Images:
        return Images(self.images.to(device), self.labels.to(device))

    def order(self, generator: np.random.Generator) -> NDArray[np.int64]:
        return generator.permutation(len(self))

    def batches(self, batches: Iterable[NDArray[np.int64]], seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the images with these numbers, as they are: uint8 [B, C, H, W], int64 [B]."""
        for batch in batches:
            index = torch.from_numpy(batch).to(self.labels.device)
            yield self.images[index], self.labels[index]


@dataclass(frozen=True)
class Source:
    """A data set as read, before anything is held out; `held_out` [N] bool where the set has a rule of its own."""

    train: Split
    test: Split
    classes: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str
    held_out: Tensor | None = None


def digits() -> Source:
    """The embedded handwritten digits, shown as 32x32.

    Image i is a test image if i mod 5 = 0, and a validation image if i mod 10 = 1.
    """
    with resources.as_file(resources.files("biprop.data") / "digits.npz") as path, np.load(path, allow_pickle=False) as file:
        small, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]).long()
    grey = small[:, None].float() * (255 / 16)
    images = F.interpolate(grey, size=(32, 32), mode="bilinear", align_corners=False).round().to(torch.uint8)
    index = torch.arange(len(labels))
    is_test = index % 5 == 0
    everything = Images(images, labels)
    train = everything.subset(~is_test)
    mean, std = _mean_and_std(train.images)
    return Source(
        train, everything.subset(is_test), [str(d) for d in range(10)], mean, std, augment="crop",
        held_out=(index % 10 == 1)[~is_test],
    )  # fmt: skip


def _mean_and_std(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel, of pixels in [0, 1], from at most 10,000 images."""
    pixels = images[:10_000].double() / 255
    std = pixels.std(dim=(0, 2, 3)).clamp(min=1e-3)
    return tuple(pixels.mean(dim=(0, 2, 3)).tolist()), tuple(std.tolist())


def cifar(folder: Path, name: str, progress: Progress = no_progress) -> Source:
    """CIFAR-10 or CIFAR-100 from parquet files or the official folder.

    Raises:
        UserError: neither layout is there, or a file is damaged.
    """
    low = name.lower()
    parquet_folders = [folder / low / ("plain_text" if name == "CIFAR10" else "cifar100"), folder]
    official_name = "cifar-10-batches-py" if name == "CIFAR10" else "cifar-100-python"
    if not folder.is_dir():
        raise UserError(f"--data {folder}: no such folder")
    for place in parquet_folders:
        if list(place.glob("train-*.parquet")):
            listings = [_parquet_part(place, part) for part in ("train", "test")]
            train, test = (_in_memory(part, None, progress, "RGB") for part in listings)
            classes = CIFAR10_CLASSES if name == "CIFAR10" else _hundred(listings[0].classes)
            break
    else:
        for place in (folder / official_name, folder):
            if (place / ("batches.meta" if name == "CIFAR10" else "meta")).is_file():
                train, test, classes = _official_cifar(place, name)
                break
        else:
            parquet = f"{parquet_folders[0].relative_to(folder)}/train-*.parquet"
            raise UserError(f"--data {folder}: no {name} there: expected {parquet} or {official_name}/")
    _check_labels(train.labels, len(classes), folder)
    _check_labels(test.labels, len(classes), folder)
    return Source(train, test, classes, CIFAR_MEAN, CIFAR_STD, augment="crop+flip")


def _hundred(classes: list[str]) -> list[str]:
    return classes if len(classes) == 100 else [str(i) for i in range(100)]


def _check_labels(labels: Tensor, classes: int, place: Path) -> None:
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise UserError(f"{place}: labels run from {int(labels.min())} to {int(labels.max())}, but there are {classes} classes")


def _parquet_part(folder: Path, part: str) -> Listing:
    paths = sorted(folder.glob(f"{part}-*.parquet"))
    if not paths:
        raise UserError(f"{folder}: no {part}-*.parquet beside the other parts")
    return list_parquet(paths)


_PICKLE_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads plain containers and numpy arrays, and refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLE_ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        return super().find_class(module, name)


def _official_cifar(folder: Path, name: str) -> tuple[Images, Images, list[str]]:
    def read(file: str) -> dict[str, Any]:
        try:
            with (folder / file).open("rb") as f:
                content = _ArrayUnpickler(f, encoding="latin1").load()
        except (OSError, pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError) as e:
            raise UserError(f"{folder / file}: not a readable CIFAR batch: {one_line(e)}") from None
        if not isinstance(content, dict):
            raise UserError(f"{folder / file}: not a readable CIFAR batch: no dictionary")
        return content

    def images(files: Sequence[str], label_key: str) -> Images:
        pixels, labels = [], []
        for file in files:
            batch = read(file)
            try:
                pixels.append(np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
                labels.append(np.asarray(batch[label_key], dtype=np.int64).reshape(len(pixels[-1])))
            except (KeyError, ValueError, TypeError) as e:
                raise UserError(f"{folder / file}: not a readable CIFAR batch: {one_line(e)}") from None
        return Images(torch.from_numpy(np.concatenate(pixels)), torch.from_numpy(np.concatenate(labels)))

    if name == "CIFAR10":
        train_files = [f"data_batch_{i}" for i in range(1, 6)]
        return images(train_files, "labels"), images(["test_batch"], "labels"), list(read("batches.meta")["label_names"])
    return images(["train"], "fine_labels"), images(["test"], "fine_labels"), list(read("meta")["fine_label_names"])


def mnist(folder: Path, progress: Progress = no_progress) -> Source:
    """MNIST, grey 28x28, never augmented: as published.

    Raises:
        UserError: no known layout is there, or a file is damaged.
    """
    if place := _parquet_folder(folder):
        train, test = (_in_memory(_parquet_part(place, part), None, progress, "L") for part in ("train", "test"))
    else:
        pixels = [_idx(folder, f"{part}-images-idx3-ubyte") for part in ("train", "t10k")]
        labels = [_idx(folder, f"{part}-labels-idx1-ubyte").long() for part in ("train", "t10k")]
        train, test = (Images(x[:, None], y) for x, y in zip(pixels, labels, strict=True))
    _check_labels(train.labels, 10, folder)
    _check_labels(test.labels, 10, folder)
    return Source(train, test, [str(d) for d in range(10)], MNIST_MEAN, MNIST_STD, augment="none")


def _idx(folder: Path, name: str) -> Tensor:
    """One file of the official MNIST: big-endian header (0, 0, type 8 = bytes, dimensions), sizes, then the bytes."""
    places = [place / (name + ending) for place in (folder, folder / "MNIST" / "raw") for ending in ("", ".gz")]
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        raise UserError(f"--data {folder}: no MNIST there: expected train-*.parquet or {name}(.gz)")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dimensions = data[3]
        sizes = np.frombuffer(data, ">i4", dimensions, 4).tolist()
        return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(sizes).copy())
    except (OSError, EOFError, ValueError, IndexError) as e:
        raise UserError(f"{path}: not a readable MNIST file: {one_line(e)}") from None


def tiny_imagenet(folder: Path, progress: Progress = no_progress) -> Source:
    """TinyImageNet: 200 classes of 64x64 pixels; its labelled validation part is the test set.

    Raises:
        UserError: no known layout is there, or an image is damaged.
    """
    official = next((p for p in (folder / "tiny-imagenet-200", folder) if (p / "val" / "val_annotations.txt").is_file()), None)
    if official:
        train = list_classes(official / "train")
        lines = (official / "val" / "val_annotations.txt").read_text(encoding="utf-8").splitlines()
        named = [line.split()[:2] for line in lines if line.strip()]
        number = {name: i for i, name in enumerate(train.classes)}
        try:
            labels = np.array([number[name] for _, name in named], dtype=np.int64)
        except KeyError as e:
            raise UserError(f"{official}/val/val_annotations.txt: names class {e}, which is not in train/") from None
        test = Listing(Files([official / "val" / "images" / file for file, _ in named]), labels, train.classes)
    else:
        train, test = find_listings(folder)
    train_images, test_images = (_in_memory(part, None, progress, "RGB") for part in (train, test))
    return Source(train_images, test_images, train.classes, IMAGENET_MEAN, IMAGENET_STD, augment="crop+flip")


def find_listings(folder: Path) -> tuple[Listing, Listing]:
    """Training and test part of a folder of parquet files or of images; see the head of this file.

    Raises:
        UserError: no folder, no known layout, or parts with different classes.
    """
    if not folder.is_dir():
        raise UserError(f"--data {folder}: no such folder")
    if place := _parquet_folder(folder):
        train = _parquet_part(place, "train")
        for part in ("test", "validation", "valid", "val"):
            if list(place.glob(f"{part}-*.parquet")):
                test = _parquet_part(place, part)
                if test.labels.min() >= 0:  # the test part of ImageNet has no labels, but -1
                    _check_labels(torch.from_numpy(test.labels), len(train.classes), place)
                    return train, test
        return split_off_test(train)
    parts = {part: folder / part for part in ("train", "test", "val") if (folder / part).is_dir()}
    if "train" not in parts or len(parts) == 1:
        return split_off_test(list_classes(parts.get("train", folder)))
    train, test = list_classes(parts["train"]), list_classes(parts.get("test") or parts["val"])
    if test.classes != train.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        name = (parts.get("test") or parts["val"]).name
        raise UserError(f"{folder}: train and {name} have different classes: {', '.join(odd[:5])}")
    return train, test


def _parquet_folder(folder: Path) -> Path | None:
    """Where the train-*.parquet are: in the folder, its data/, or the only one of its subfolders that has some."""
    below = sorted(p for p in folder.glob("*") if p.is_dir()) if folder.is_dir() else []
    places = [p for p in (folder, folder / "data", *below, *(p / "data" for p in below)) if list(p.glob("train-*.parquet"))]
    return places[0] if places else None


def split_off_test(listing: Listing) -> tuple[Listing, Listing]:
    """A fixed fifth as the test part."""
    count = len(listing.items)
    is_test = np.argsort(np.argsort(rng.words(0, 1, count, rng.Stream.SPLIT), kind="stable")) < max(1, count // 5)
    train, test = (replace(listing, items=_Some(listing.items, np.flatnonzero(mask)), labels=listing.labels[mask])
                   for mask in (~is_test, is_test))  # fmt: skip
    return train, test


class _Some:
    """Some of the items of a list."""

    def __init__(self, items: Items, chosen: NDArray[np.int64]) -> None:
        self.items, self.chosen = items, chosen
        self.groups, self.pool = items.groups[chosen], items.pool

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, index: int) -> bytes | Path:
        return self.items.read(int(self.chosen[index]))

    def name(self, index: int) -> str:
        return self.items.name(int(self.chosen[index]))


def hub(name: str) -> tuple[Listing, Listing]:
    """See `items.list_hub`; without a test part, a fixed fifth is split off."""
    train, test = list_hub(name)
    return (train, test) if test else split_off_test(train)


def in_memory(listings: tuple[Listing, Listing], image_size: int | None, progress: Progress = no_progress) -> Source:
    """Both parts decoded, of one size, with statistics of their own.

    Raises:
        UserError: an image cannot be read, sizes differ while `image_size` is not given, or memory is too small.
    """
    mode = _common_mode(listings[0].items)
    train, test = (_in_memory(part, image_size, progress, mode) for part in listings)
    if train.shape != test.shape:
        raise UserError("training and test images have different sizes: pass --image-size")
    mean, std = _mean_and_std(train.images)
    return Source(train, test, listings[0].classes, mean, std, augment="crop+flip")


def streamed(listings: tuple[Listing, Listing], image_size: int | None, workers: int) -> Source:
    """Both parts read while training, with the statistics of ImageNet."""
    size = image_size or IMAGENET_SIZE
    train, test = (Streamed(part.items, torch.from_numpy(part.labels), size, workers) for part in listings)
    return Source(train, test, listings[0].classes, IMAGENET_MEAN, IMAGENET_STD, augment="crop+flip")


def _common_mode(items: Items) -> str:
    """L if the first image is grey, else RGB: one look decides the number of channels of the whole set."""
    from PIL import Image, UnidentifiedImageError

    data = items.read(0)
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            return "L" if image.mode in ("1", "L", "I;16") else "RGB"
    except (OSError, UnidentifiedImageError) as e:
        raise UserError(f"{items.name(0)}: not a readable image: {one_line(e)}") from None


def _in_memory(listing: Listing, size: int | None, progress: Progress, mode: str) -> Images:
    """All images decoded; they must have the size of the first unless `size` (pixels a side) is given."""
    from PIL import Image

    items = listing.items

    def read(index: int) -> NDArray[np.uint8]:
        data = items.read(index)
        try:
            with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as file:
                image = file if file.mode == mode else file.convert(mode)
                if size and image.size != (size, size):
                    image = image.resize((size, size), Image.Resampling.BILINEAR)
                pixels = np.asarray(image, dtype=np.uint8)
                return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
            raise UserError(f"{items.name(index)}: not a readable image: {one_line(e)}") from None

    first = read(0)
    if (need := first.size * len(items)) > (memory := _memory_size() // 2):
        raise UserError(
            f"{len(items):,} images of {first.shape[2]}x{first.shape[1]} pixels take {need / 2**30:.1f} GiB, more than half of "
            f"this machine's memory ({memory / 2**29:.0f} GiB): pass --stream, or a smaller --image-size"
        )
    result = np.empty((len(items), *first.shape), dtype=np.uint8)

    # One thread: images this small cost more in Python than in the decoder, and two threads take longer than one.
    for i in progress(range(len(items)), "decoding images", len(items)):
        pixels = read(i)
        if pixels.shape != first.shape:
            height, width = pixels.shape[1:]
            wanted = f"{first.shape[2]}x{first.shape[1]}"
            raise UserError(f"{items.name(i)}: {width}x{height} pixels where the first image has {wanted}: pass --image-size")
        result[i] = pixels
    return Images(torch.from_numpy(result), torch.from_numpy(listing.labels))


def _memory_size() -> int:
    """Bytes of this machine's memory; without an answer, no limit."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63
