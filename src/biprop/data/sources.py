"""Where images come from: each function reads one layout into uint8 tensors in memory.

digits        embedded: UCI "Optical Recognition of Handwritten Digits", test part (E. Alpaydin and C. Kaynak, 1998; CC BY 4.0,
              doi.org/10.24432/C50P49), 1,797 images of 8x8 pixels
CIFAR10/100   parquet as on the Hugging Face Hub (columns img {bytes, path} and label, or fine_label), below the folder at
              cifar10/plain_text/ or cifar100/cifar100/ or directly; or the official cifar-10-batches-py, cifar-100-python
folder        train/CLASS/*.png and test/CLASS/*.png (or val/), or just CLASS/*.png, a fixed fifth of which is then the test set
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import rng
from ..errors import UserError, one_line

T = TypeVar("T")
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""(iterable, what it does, length) -> the same items, while showing how far it is."""

CIFAR_MEAN, CIFAR_STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


def no_progress(items: Iterable[Any], what: str, length: int) -> Iterable[Any]:
    """A `Progress` that shows nothing."""
    return items


@dataclass(frozen=True)
class Images:
    """Images [N, C, H, W] uint8 and labels [N] int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, mask: Tensor) -> Images:
        """Those where `mask` [N] is true."""
        return Images(self.images[mask], self.labels[mask])

    def to(self, device: torch.device) -> Images:
        return Images(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Source:
    """A data set as read, before anything is held out; `held_out` [N] bool where the set has a rule of its own."""

    train: Images
    test: Images
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
            train, test = (_parquet(place, part, progress) for part in ("train", "test"))
            classes = CIFAR10_CLASSES if name == "CIFAR10" else [str(i) for i in range(100)]
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


def _check_labels(labels: Tensor, classes: int, place: Path) -> None:
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise UserError(f"{place}: labels run from {int(labels.min())} to {int(labels.max())}, but there are {classes} classes")


def _parquet(folder: Path, part: str, progress: Progress) -> Images:
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = sorted(folder.glob(f"{part}-*.parquet"))
    if not paths:
        raise UserError(f"{folder}: no {part}-*.parquet beside the other parts")
    encoded: list[bytes] = []
    labels: list[int] = []
    for path in paths:
        try:
            table = pq.read_table(path)
            image_column = "img" if "img" in table.column_names else "image"
            label_column = "label" if "label" in table.column_names else "fine_label"
            encoded += table[image_column].combine_chunks().field("bytes").to_pylist()
            labels += table[label_column].to_pylist()
        except (pa.ArrowException, OSError, KeyError, TypeError) as e:
            raise UserError(f"{path}: not a readable parquet file of images and labels: {one_line(e)}") from None
    where = f"{folder}/{part}-*.parquet"
    pixels = _decode(
        encoded, [f"{where}, image {i}" for i in range(len(encoded))], None, "RGB", progress, f"decoding {part} images"
    )
    return Images(pixels, torch.tensor(labels))


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


def image_folder(folder: Path, image_size: int | None = None, progress: Progress = no_progress) -> Source:
    """Images in one folder per class; class names are the folders' names, sorted.

    Raises:
        UserError: no folder, fewer than two classes, other classes in the test part, a class without images, an image that
            cannot be read, or sizes that differ while `image_size` is not given.
    """
    if not folder.is_dir():
        raise UserError(f"--data {folder}: no such folder")
    parts = {part: folder / part for part in ("train", "test", "val") if (folder / part).is_dir()}
    if "train" in parts and len(parts) > 1:
        train_files, train_labels, classes = _list_classes(parts["train"])
        test_part = parts.get("test") or parts["val"]
        test_files, test_labels, test_classes = _list_classes(test_part)
        if test_classes != classes:
            odd = sorted(set(classes) ^ set(test_classes))
            raise UserError(f"{folder}: {parts['train'].name} and {test_part.name} have different classes: {', '.join(odd[:5])}")
    else:
        files, labels, classes = _list_classes(folder)
        is_test = np.argsort(np.argsort(rng.words(0, 1, len(files), rng.Stream.SPLIT), kind="stable")) < max(1, len(files) // 5)
        train_files, test_files = ([f for f, t in zip(files, is_test, strict=True) if t == want] for want in (False, True))
        train_labels, test_labels = ([f for f, t in zip(labels, is_test, strict=True) if t == want] for want in (False, True))
    mode = _common_mode(train_files)
    size = (image_size, image_size) if image_size else None
    train_pixels = _decode(train_files, train_files, size, mode, progress, "decoding training images")
    size = (train_pixels.shape[2], train_pixels.shape[3])
    test_pixels = _decode(test_files, test_files, size if image_size else None, mode, progress, "decoding test images")
    if test_pixels.shape[2:] != train_pixels.shape[2:]:
        raise UserError(f"{folder}: training and test images have different sizes: pass --image-size")
    mean, std = _mean_and_std(train_pixels)
    train, test = Images(train_pixels, torch.tensor(train_labels)), Images(test_pixels, torch.tensor(test_labels))
    return Source(train, test, classes, mean, std, augment="crop+flip")


def _list_classes(folder: Path) -> tuple[list[Path], list[int], list[str]]:
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise UserError(f"{folder}: needs one folder of images for each of two classes or more, found {found}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        own = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
        if not own:
            raise UserError(f"{folder / name}: a class without images")
        files += own
        labels += [label] * len(own)
    return files, labels, classes


def _common_mode(files: Sequence[Path]) -> str:
    """L if the first image is grey, else RGB: one look decides the number of channels of the whole set."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(files[0]) as image:
            return "L" if image.mode in ("1", "L", "I;16") else "RGB"
    except (OSError, UnidentifiedImageError) as e:
        raise UserError(f"{files[0]}: not a readable image: {one_line(e)}") from None


def _decode(
    items: Sequence[bytes | Path], names: Sequence[object], size: tuple[int, int] | None, mode: str, progress: Progress, what: str
) -> Tensor:
    """Images to one uint8 tensor [N, C, H, W]; all must have the size of the first unless `size` (height, width) is given."""
    from PIL import Image

    def read(item: bytes | Path, name: object) -> np.ndarray[Any, np.dtype[np.uint8]]:
        try:
            with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as file:
                image = file if file.mode == mode else file.convert(mode)
                if size and image.size != (size[1], size[0]):
                    image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
                pixels = np.asarray(image, dtype=np.uint8)
                return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
            raise UserError(f"{name}: not a readable image: {one_line(e)}") from None

    first = read(items[0], names[0])
    result = np.empty((len(items), *first.shape), dtype=np.uint8)

    # One thread: images this small cost more in Python than in the decoder, and two threads take longer than one.
    for i in progress(range(len(items)), what, len(items)):
        pixels = read(items[i], names[i])
        if pixels.shape != first.shape:
            height, width = pixels.shape[1:]
            wanted = f"{first.shape[2]}x{first.shape[1]}"
            raise UserError(f"{names[i]}: {width}x{height} pixels where the first image has {wanted}: pass --image-size")
        result[i] = pixels
    return torch.from_numpy(result)
