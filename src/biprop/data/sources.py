"""Where images come from: each function reads one data set.

digits        embedded: UCI "Optical Recognition of Handwritten Digits", test part (E. Alpaydin and C. Kaynak, 1998; CC BY 4.0,
              doi.org/10.24432/C50P49), 1,797 images of 8x8 pixels
CIFAR10/100   parquet as on the Hugging Face Hub (columns img {bytes, path} and label, or fine_label), below the folder at
              cifar10/plain_text/ or cifar100/cifar100/ or directly; or the official cifar-10-batches-py, cifar-100-python, in the
              folder or in its cifar10/, cifar100/
MNIST         parquet as on the Hub, or the official train-images-idx3-ubyte(.gz) and its three companions, in the folder, its
              MNIST/raw/ or the same below mnist/
TinyImageNet  the official tiny-imagenet-200, or parquet as on the Hub
any other     what `layouts` recognises: parquet files, or folders of images, in parts or in classes only; a fixed fifth of each
              class is the test set where there is no test part. ImageNet is read like this, also from imagenet/ in the folder
hub           whatever the package `datasets` loads
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .. import pictures
from ..errors import UserError, one_line
from ..names import escaped
from . import layouts, pickles
from .items import READ_COLUMNS, Files, Listing, list_classes, list_hub, list_parquet, load_hub
from .labels import Classes
from .layouts import TEST, TRAIN, VALIDATION, part_of
from .splits import TEST_LAYER, stratified
from .stream import Streamed

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""(iterable, what it does, length) -> the same items, while showing how far it is."""

CIFAR_MEAN, CIFAR_STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGENET_SIZE = 224
MNIST_SIZE = 28
MOST_MNIST_IMAGES = 10_000_000
"""Of one file: its head says how many, and memory is taken for them."""


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


@dataclass
class Parts:
    """The parts of a data set, before an image is decoded.

    Attributes:
        train: the images that are not of the test part.
        test: those of the test part.
        validation: [N] bool, which of `train` are a validation part of the data set's own; None where it has none.
        about: what was recognised, in words.
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
        mean, std: per channel, of pixels in [0, 1].
        augment: what suits the set, as of `Recipe.augment`.
        held_out: [N] bool, which training images are for validation, where the set has a rule or a part of its own.
        about: what was recognised in a folder, in words.
        notes: what the user should know, a line each.
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


def checked_folder(folder: Path) -> Path:
    """The folder that --data names.

    Raises:
        UserError: there is none, or it is a file.
    """
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"--data {folder}: is a file: unpack it, and pass the folder")
    raise UserError(f"--data {folder}: no such folder; pass --data DIR, or --set hub for a data set on the Hub")


_CIFAR = {  # the Hub's folder, the official one, its file of names, and the keys of labels and names there
    "CIFAR10": ("plain_text", "cifar-10-batches-py", "batches.meta", "labels", "label_names"),
    "CIFAR100": ("cifar100", "cifar-100-python", "meta", "fine_labels", "fine_label_names"),
}
_CIFAR_FILES = {
    "CIFAR10": ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]),
    "CIFAR100": (["train"], ["test"]),
}
"""Training and test files of the official folders."""


def cifar(folder: Path, name: str, progress: Progress = no_progress) -> Source:
    """CIFAR-10 or CIFAR-100 from parquet files or the official folder.

    Raises:
        UserError: neither layout is there, or a file is damaged.
    """
    hub, official, meta, *_ = _CIFAR[name]
    homes = layouts.places(checked_folder(folder), name)
    for place in [inside for home in reversed(homes) for inside in (home / hub, home)]:
        if place.is_dir() and any(place.glob("train-*.parquet")):
            train, test, classes = _parquet_cifar(place, name, progress)
            break
    else:
        found = [inside for home in homes for inside in (home / official, home) if (inside / meta).is_file()]
        if not found:
            parquet = f"{name.lower()}/{hub}/train-*.parquet"
            raise UserError(f"--data {folder}: no {name} there: expected {parquet} or {official}/")
        train, test, classes = _official_cifar(found[0], name)
    _check_labels(train.labels, len(classes), folder)
    _check_labels(test.labels, len(classes), folder)
    return Source(train, test, classes, CIFAR_MEAN, CIFAR_STD, augment="crop+flip")


def _parquet_cifar(place: Path, name: str, progress: Progress) -> tuple[Images, Images, list[str]]:
    default = CIFAR10_CLASSES if name == "CIFAR10" else [str(i) for i in range(100)]
    parts = _parquet_parts(place, default)
    if len(parts.train.classes) != len(default):
        raise UserError(f"{place}: has {len(parts.train.classes)} classes, and {name} {len(default)}: pass --set folder")
    train, test = (_in_memory(part, None, progress, "RGB") for part in (parts.train, parts.test))
    return train, test, parts.train.classes


def _check_labels(labels: Tensor, classes: int, place: Path) -> None:
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise UserError(f"{place}: labels run from {int(labels.min())} to {int(labels.max())}, but there are {classes} classes")


def _official_cifar(folder: Path, name: str) -> tuple[Images, Images, list[str]]:
    _, _, meta, label_key, names_key = _CIFAR[name]
    classes = pickles.load(folder / meta).get(names_key)
    wanted = 10 if name == "CIFAR10" else 100
    if not (isinstance(classes, list) and len(classes) == wanted and all(isinstance(c, str) for c in classes)):
        raise UserError(f"{folder / meta}: not a readable CIFAR batch: {names_key} must be the names of {wanted} classes")
    train, test = (_cifar_batches(folder, files, label_key) for files in _CIFAR_FILES[name])
    return train, test, classes


def _cifar_batches(folder: Path, files: Sequence[str], label_key: str) -> Images:
    batches = [_cifar_batch(folder / file, label_key) for file in files]
    images, labels = (torch.from_numpy(np.concatenate(part)) for part in zip(*batches, strict=True))
    return Images(images, labels)


def _cifar_batch(path: Path, label_key: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [N, 3, 32, 32] and labels [N] of one file.

    Raises:
        UserError: it is damaged, or its arrays are of another type, shape or number.
    """
    batch = pickles.load(path)
    pixels, labels = batch.get("data"), batch.get(label_key)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] not in ((3072,), (3, 32, 32)):
        found = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise UserError(
            f"{path}: not a readable CIFAR batch: data is {found}, must be uint8 [N, 3072], the rows of red, of green and of blue"
        )
    labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 100 for label in labels):
        raise UserError(f"{path}: not a readable CIFAR batch: {label_key} must be a list of class numbers")
    if len(labels) != len(pixels):
        raise UserError(f"{path}: not a readable CIFAR batch: {len(pixels):,} images and {len(labels):,} labels")
    return pixels.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def mnist(folder: Path, progress: Progress = no_progress) -> Source:
    """MNIST, grey 28x28, never augmented: as published.

    Raises:
        UserError: no known layout is there, or a file is damaged.
    """
    digits = [str(d) for d in range(10)]
    homes = layouts.places(checked_folder(folder), "MNIST")
    official = [place for home in homes for place in (home, home / "raw", home / "MNIST" / "raw") if _is_mnist(place)]
    if not official and (files := layouts.of_parquet(homes[-1])):
        parts = _of_parquet(homes[-1], files, digits)
        train, test = (_in_memory(part, None, progress, "L") for part in (parts.train, parts.test))
    else:
        place = official[0] if official else folder
        train, test = (_mnist_part(folder, place, part) for part in ("train", "t10k"))
    if train.shape != (1, MNIST_SIZE, MNIST_SIZE):
        raise UserError(f"--data {folder}: no MNIST there: images of {train.shape[2]}x{train.shape[1]} pixels; pass --set folder")
    _check_labels(train.labels, 10, folder)
    _check_labels(test.labels, 10, folder)
    return Source(train, test, digits, MNIST_MEAN, MNIST_STD, augment="none")


def _is_mnist(place: Path) -> bool:
    return any((place / f"train-images-idx3-ubyte{ending}").is_file() for ending in ("", ".gz"))


def _mnist_part(folder: Path, place: Path, part: str) -> Images:
    images = _idx(folder, place / f"{part}-images-idx3-ubyte", (MNIST_SIZE, MNIST_SIZE))
    labels = _idx(folder, place / f"{part}-labels-idx1-ubyte", ())
    if len(images) != len(labels):
        raise UserError(f"{place}: {len(images):,} {part} images and {len(labels):,} labels")
    return Images(images[:, None], labels.long())


def _idx(folder: Path, name: Path, size: tuple[int, ...]) -> Tensor:
    """One file of the official MNIST, [N, *size]: big-endian head (0, 0, type 8 = bytes, dimensions), sizes, then the bytes."""
    path = next((p for p in (name, name.with_name(name.name + ".gz")) if p.is_file()), None)
    if path is None:
        raise UserError(f"--data {folder}: no MNIST there: expected train-*.parquet or {name.name}(.gz)")
    magic, head_size = 0x800 + 1 + len(size), 4 * (2 + len(size))
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = np.frombuffer(file.read(head_size), ">i4").tolist()
            right = len(head) == 2 + len(size) and head[0] == magic and tuple(head[2:]) == size
            if not right or not 0 < head[1] <= MOST_MNIST_IMAGES:
                raise ValueError(f"its head is {head}, must be {[magic, 'N', *size]}")
            wanted = head[1] * math.prod(size)
            data = file.read(wanted + 1)
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise UserError(f"{path}: not a readable MNIST file: {one_line(e)}") from None
    if len(data) != wanted:
        raise UserError(f"{path}: not a readable MNIST file: {'more' if len(data) > wanted else 'fewer'} than {wanted:,} bytes")
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(head[1], *size).copy())


def tiny_imagenet(folder: Path, progress: Progress = no_progress) -> Source:
    """TinyImageNet: 200 classes of 64x64 pixels; its labelled validation part is the test set.

    Raises:
        UserError: no known layout is there, or an image is damaged.
    """
    homes = layouts.places(checked_folder(folder), "tiny-imagenet-200", "TinyImageNet", "tiny-imagenet")
    candidates = [place for home in homes for place in (home, home / "tiny-imagenet-200")]
    official = next((p for p in candidates if (p / "val" / "val_annotations.txt").is_file()), None)
    if official:
        train = list_classes(official / "train")
        annotations = official / "val" / "val_annotations.txt"
        number = {name: i for i, name in enumerate(train.classes)}
        try:
            lines = annotations.read_text(encoding="utf-8").splitlines()
            named = [(file, name) for file, name, *_ in (line.split() for line in lines if line.strip())]
            labels = np.array([number[name] for _, name in named], dtype=np.int64)
        except KeyError as e:
            raise UserError(f"{annotations}: names class {e}, which is not in train/") from None
        except (OSError, ValueError) as e:
            raise UserError(f"{annotations}: must have an image's name and its class in each line: {one_line(e)}") from None
        if not named:
            raise UserError(f"{annotations}: names no image")
        test = Listing(Files([official / "val" / "images" / file for file, _ in named]), labels, train.classes)
    else:
        parts = find_listings(homes[-1])
        train, test = parts.train, parts.test
    train_images, test_images = (_in_memory(part, None, progress, "RGB") for part in (train, test))
    return Source(train_images, test_images, train.classes, IMAGENET_MEAN, IMAGENET_STD, augment="crop+flip")


def recognise(folder: Path) -> str:
    """The set that a folder holds, as `--set` names it: one of those with names, by its official files, or "folder".

    Raises:
        UserError: no folder, or several sets.
    """
    homes = {
        "CIFAR10": layouts.places(checked_folder(folder), "CIFAR10"),
        "CIFAR100": layouts.places(folder, "CIFAR100"),
        "MNIST": layouts.places(folder, "MNIST"),
        "TinyImageNet": layouts.places(folder, "tiny-imagenet-200"),
    }
    marks = {
        "CIFAR10": ("plain_text/train-00000-of-00001.parquet", "cifar-10-batches-py/batches.meta", "batches.meta"),
        "CIFAR100": ("cifar100/train-00000-of-00001.parquet", "cifar-100-python/meta", "meta"),
        "MNIST": tuple(f"{place}train-images-idx3-ubyte{end}" for place in ("", "raw/", "MNIST/raw/") for end in ("", ".gz")),
        "TinyImageNet": ("val/val_annotations.txt", "tiny-imagenet-200/val/val_annotations.txt"),
    }
    found = [name for name in marks if any((home / mark).is_file() for home in homes[name] for mark in marks[name])]
    if len(found) > 1:
        raise UserError(f"--data {folder}: holds {' and '.join(found)}: pass --set with one of them")
    return found[0] if found else "folder"


def find_listings(folder: Path) -> Parts:
    """The parts of a folder of parquet files or of images; see `layouts`.

    Raises:
        UserError: no folder, no known layout, or parts with different classes.
    """
    files = layouts.of_parquet(checked_folder(folder))
    return _of_parquet(folder, files) if files else _of_pictures(folder)


def imagenet(folder: Path) -> Parts:
    """The same for ImageNet, which may lie beside other data sets in a folder of its own name."""
    homes = layouts.places(checked_folder(folder), "imagenet", "imagenet-1k", "ILSVRC2012")
    return find_listings(homes[-1])


def _parquet_parts(place: Path, default: Sequence[str]) -> Parts:
    """Of parquet files that lie directly in a folder."""
    files: dict[str, list[Path]] = {}
    for path in sorted(place.glob("*.parquet")):
        files.setdefault(part_of(path.name.partition("-")[0]) or "", []).append(path)
    if TEST not in files:
        raise UserError(f"{place}: no test-*.parquet beside the other parts")
    return _of_parquet(place, files, default)


def _of_parquet(folder: Path, files: Mapping[str, Sequence[Path]], default: Sequence[str] = ()) -> Parts:
    train = list_parquet(files[TRAIN], default=default)
    if train is None:
        raise UserError(f"{files[TRAIN][0]}: training images without labels; {READ_COLUMNS}")
    known = Classes(train.classes, train.origin)
    others = {part: list_parquet(files[part], known) for part in (VALIDATION, TEST) if part in files}
    names = {part: f"{len(paths)} parquet file{'s' * (len(paths) > 1)}" for part, paths in files.items() if part}
    return _assembled(folder, train, others, names)


def _of_pictures(folder: Path) -> Parts:
    places = layouts.of_pictures(folder)
    train = list_classes(places.get(TRAIN) or places[""])
    others = {part: _labelled_part(place, train) for part, place in places.items() if part in (VALIDATION, TEST)}
    names = {part or TRAIN: f"{place.relative_to(folder)}/" for part, place in places.items()}
    return _assembled(folder, train, others, names)


def _labelled_part(place: Path, train: Listing) -> Listing | None:
    """Images of the classes of the training part, or None where they are in no folders of classes.

    Raises:
        UserError: the part has other classes.
    """
    own = {path.name for path in layouts.visible_folders(place)}
    shared = own & set(train.classes)
    if not shared and len(own) < 2:
        return None
    odd = sorted(own ^ set(train.classes))
    if odd:
        raise UserError(f"{place}: its classes are not those of the training part: {', '.join(odd[:5])} on one side only")
    return list_classes(place)


def _assembled(folder: Path, train: Listing, others: Mapping[str, Listing | None], names: Mapping[str, str]) -> Parts:
    """The parts, with a word on each: without a labelled test part, the validation part is it, or else a fifth is split off.

    Args:
        folder: for messages.
        train: the training part.
        others: the validation and the test part, where there are any; None for one without labels.
        names: of the parts, as the user sees them.
    """
    if len(train.classes) < 2:
        raise UserError(f"{folder}: needs images of two classes or more, found {', '.join(train.classes)}")
    for part, listing in others.items():
        if listing is None:
            train.notes.append(f"{folder}: the {part} part ({names[part]}) has no labels, and is left out")
    labelled = {part: listing for part, listing in others.items() if listing}
    told = [f"{TRAIN} {names[TRAIN]}"]
    held_out = None
    if TEST in labelled:
        test = labelled[TEST]
        told.append(f"{TEST} {names[TEST]}")
        if VALIDATION in labelled:
            own = labelled[VALIDATION]
            held_out = np.arange(len(train.labels) + len(own.labels)) >= len(train.labels)
            train = train.followed_by(own)
            told.append(f"{VALIDATION} {names[VALIDATION]}")
    elif VALIDATION in labelled:
        test = labelled[VALIDATION]
        told.append(f"{TEST} {names[VALIDATION]}")
    else:
        train, test = split_off_test(train)
        told.append("a fifth of it held out as the test set")
    shown = ", ".join(map(escaped, train.classes[:5])) + (", ..." if len(train.classes) > 5 else "")
    count = len(train.labels) + len(test.labels)
    return Parts(train, test, held_out, f"{len(train.classes)} classes ({shown}), {count:,} images: {', '.join(told)}")


def split_off_test(listing: Listing) -> tuple[Listing, Listing]:
    """A fixed fifth of every class as the test part.

    Raises:
        UserError: a class has one image only.
    """
    count = len(listing.items)
    is_test = stratified(listing.labels, max(1, count // 5), TEST_LAYER, listing.classes)
    train, test = listing.subset(~is_test), listing.subset(is_test)
    train.notes.extend(listing.notes)
    return train, test


def hub(name: str, configuration: str | None = None, train: str | None = None, test: str | None = None) -> Parts:
    """A data set that the package `datasets` loads.

    Args:
        name: see `items.load_hub`.
        configuration: which one, where there are several.
        train, test: names of the parts to use, instead of those that `layouts.PART_NAMES` finds.

    Raises:
        UserError: see `items.load_hub` and `items.list_hub`; or no such part.
    """
    loaded = load_hub(name, configuration)
    names = layouts.parts_among(loaded, f"--data {name}")
    if train or test:
        names = {TRAIN: train or names.get(TRAIN, ""), **({TEST: test} if test else {})}
    lacking = [part for part in names.values() if part not in loaded]
    if TRAIN not in names or lacking:
        what = ", ".join(lacking) or "training part"
        raise UserError(f"--data {name}: no {what}: has {', '.join(loaded)}; pass --train-split and --test-split")
    unknown = [part for part in loaded if part not in names.values()]
    if unknown and not (train or test):
        raise UserError(
            f"--data {name}: has the parts {', '.join(loaded)}, and {unknown[0]} means none: pass --train-split and --test-split"
        )
    first = list_hub(loaded[names[TRAIN]], f"{name} ({names[TRAIN]})")
    if first is None:
        raise UserError(f"--data {name}: no labels in {names[TRAIN]}, of the columns {', '.join(loaded[names[TRAIN]].features)}")
    known = Classes(first.classes, first.origin)
    others = {
        part: list_hub(loaded[names[part]], f"{name} ({names[part]})", known) for part in (VALIDATION, TEST) if part in names
    }
    return _assembled(Path(name), first, others, names)


def in_memory(parts: Parts, image_size: int | None, progress: Progress = no_progress, channels: int | None = None) -> Source:
    """Both parts decoded, of one size, with statistics of their own.

    Args:
        parts: the encoded images.
        image_size: pixels a side that all are scaled to; None where they have one size already.
        progress: shows how far it is.
        channels: 1 for grey, 3 for colour; None: grey if all images of both parts are.

    Raises:
        UserError: an image cannot be read, sizes differ while `image_size` is not given, or memory is too small.
    """
    listings = (parts.train, parts.test)
    mode = pictures.mode_of(channels) if channels else _common_mode(listings)
    train, test = (_in_memory(part, image_size, progress, mode) for part in listings)
    if train.shape != test.shape:
        raise UserError(f"training and test images have different sizes: {_SCALE}")
    mean, std = _mean_and_std(train.images)
    return _source(parts, train, test, mean, std)


def streamed(parts: Parts, image_size: int | None, workers: int) -> Source:
    """Both parts read while training, in colour, with the statistics of ImageNet."""
    size = image_size or IMAGENET_SIZE
    train, test = (Streamed(part.items, torch.from_numpy(part.labels), size, workers) for part in (parts.train, parts.test))
    return _source(parts, train, test, IMAGENET_MEAN, IMAGENET_STD)


def _source(parts: Parts, train: Split, test: Split, mean: tuple[float, ...], std: tuple[float, ...]) -> Source:
    held_out = None if parts.validation is None else torch.from_numpy(parts.validation)
    return Source(
        train, test, parts.train.classes, mean, std, augment="crop+flip",
        held_out=held_out, about=parts.about, notes=parts.notes,
    )  # fmt: skip


def _common_mode(listings: Sequence[Listing]) -> str:
    """L if all images are grey, else RGB."""
    for listing in listings:
        items = listing.items
        for index in range(len(items)):
            with pictures.opened(items.read(index), items.name(index)) as image:
                if not pictures.is_grey(image):
                    return "RGB"
    return "L"


_SCALE = "pass --image-size N to scale all to N x N pixels"


def _in_memory(listing: Listing, size: int | None, progress: Progress, mode: str) -> Images:
    """All images decoded; they must have the size of the first unless `size` (pixels a side) is given."""
    items = listing.items

    def read(index: int) -> NDArray[np.uint8]:
        with pictures.opened(items.read(index), items.name(index)) as file:
            image = pictures.as_mode(file, mode)
            return pictures.pixels(pictures.scaled(image, size, size) if size else image)

    first = read(0)
    if (need := first.size * len(items)) > (memory := _memory_size() // 2):
        raise UserError(
            f"{len(items):,} images of {first.shape[2]}x{first.shape[1]} pixels take {need / 2**30:.1f} GiB, more than half of "
            f"this machine's memory ({memory / 2**29:.0f} GiB): pass --stream, or a smaller --image-size"
        )
    result = np.empty((len(items), *first.shape), dtype=np.uint8)

    # One thread: images this small cost more in Python than in the decoder, and two threads take longer than one.
    for i in progress(range(len(items)), "decoding images", len(items)):
        image = read(i)
        if image.shape != first.shape:
            height, width = image.shape[1:]
            wanted = f"{first.shape[2]}x{first.shape[1]}"
            raise UserError(f"{items.name(i)}: {width}x{height} pixels where the first image has {wanted}: {_SCALE}")
        result[i] = image
    return Images(torch.from_numpy(result), torch.from_numpy(listing.labels))


def _memory_size() -> int:
    """Bytes of this machine's memory; without an answer, no limit."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63
