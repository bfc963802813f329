"""Accuracy under corruptions: a network, or the cards of a deck and their common answers, on images corrupted here or published.

Scores: accuracy for each corruption and severity; its mean over the 15 corruptions of `severities.NAMES`; and mCE, the mean over
corruptions of the errors summed over severities, divided by a reference's (Hendrycks and Dietterich, ICLR 2019, section 4).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import corruptions, pictures
from .data import DataSet, slices, spread
from .data.items import list_classes
from .data.sources import Progress
from .deck import Deck, softmax, together
from .errors import UserError, did_you_mean, one_line
from .evaluate import Counts
from .gate import Gating
from .names import escaped
from .severities import EXTRA, GROUPS, NAMES, SEVERITIES

Network = Callable[[Tensor], Tensor]
"""Pixels [B, C, H, W] uint8 to logits [B, classes]."""
Cell = tuple[str, int]
"""A corruption and a severity."""
Batches = Iterator[tuple[Tensor, Tensor]]

ALEXNET = dict(
    zip(
        NAMES,
        (0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816, 0.826572, 0.819324, 0.564592, 0.853204,
         0.646056, 0.717840, 0.606500),
        strict=True,
    )
)  # fmt: skip
"""AlexNet's error on ImageNet-C, mean over the five severities: what mCE of ImageNet-C is relative to, by its authors."""
IMAGENET_CLASSES = 1000


@dataclass
class Classifier:
    """Networks that are measured in one pass, each for itself and together as a deck.

    Attributes:
        networks: one, or those of the deck's cards.
        names: what they are called.
        deck: tells how they answer together; None for one network alone.
    """

    networks: list[Network]
    names: list[str]
    deck: Deck | None = None

    @property
    def answers(self) -> list[str]:
        """What `classes` gives, in order: each network, and the ways in which a deck can answer."""
        return [*self.names, *(name for name, _ in self._ways())]

    def _ways(self) -> list[tuple[str, Gating]]:
        if self.deck is None:
            return []
        gated: list[tuple[str, Gating]] = [("deck, gated by batch", "batch"), ("deck, gated by image", "image")]
        return [("deck, mean", "none"), *(gated if self.deck.gate else [])]

    def classes(self, pixels: Tensor) -> Tensor:
        """[answers, B] int64 of pixels [B, C, H, W] uint8."""
        logits = [network(pixels) for network in self.networks]
        found = [one.argmax(1).cpu() for one in logits]
        if self.deck:
            answers = np.stack([softmax(one.float().cpu().numpy()) for one in logits])
            seen = pixels.cpu().numpy()
            for _, gating in self._ways():
                found.append(torch.from_numpy(together(answers, self.deck.card_weights(seen, gating)).argmax(1)))
        return torch.stack(found)


@dataclass
class Scores:
    """What one classifier got right.

    Attributes:
        name: of the classifier.
        clean: counts on the images as they are.
        cells: counts by corruption and severity.
    """

    name: str
    clean: Counts = field(default_factory=Counts)
    cells: dict[Cell, Counts] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The corruptions that were measured."""
        return list(dict.fromkeys(name for name, _ in self.cells))

    def of(self, name: str) -> float:
        """Accuracy in percent under a corruption: the mean over its severities."""
        found = [counts.top1 for (of, _), counts in self.cells.items() if of == name]
        return sum(found) / len(found)

    def mean(self, names: Iterable[str] = NAMES) -> float | None:
        """Accuracy in percent: the mean over those of `names` that were measured; None if there are none."""
        found = [self.of(name) for name in names if name in self.names]
        return sum(found) / len(found) if found else None

    def mce(self, reference: Mapping[str, Mapping[int, float]]) -> float | None:
        """Mean corruption error in percent of the reference's, over those of the 15 that were measured.

        Args:
            reference: errors in 0 .. 1 by corruption and severity, see `read_reference`.
        """
        ratios = []
        for name in (one for one in NAMES if one in self.names):
            own = [
                (1 - counts.top1 / 100, reference[name][severity]) for (of, severity), counts in self.cells.items() if of == name
            ]
            ratios.append(sum(error for error, _ in own) / max(1e-9, sum(error for _, error in own)))
        return 100 * sum(ratios) / len(ratios) if ratios else None


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
        self.told = f"corrupted here, from {len(numbers):,} test images (seed {seed}); not the published files"

    def clean(self) -> Batches:
        """The images as they are."""
        return self._images.test.batches(slices(self._numbers, self._batch), None)

    def batches(self, name: str, severity: int) -> Batches:
        """Images [B, C, H, W] uint8 and labels [B]; an image's corruption follows from its number in the test set."""
        for (pixels, labels), numbers in zip(self.clean(), slices(self._numbers, self._batch), strict=True):
            yield corruptions.corrupt(pixels, name, severity, self._seed, numbers.tolist()), labels


class PublishedArrays:
    """CIFAR-10-C and CIFAR-100-C as published: NAME.npy [5 N, H, W, 3] uint8, severity by severity, and labels.npy [5 N] or [N].

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
        self, folder: Path, names: Sequence[str], shape: tuple[int, int, int], classes: int, most: int, batch: int
    ) -> None:
        labels = _array(folder / "labels.npy")
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
            raise UserError(f"{folder / 'labels.npy'}: {labels.dtype} {list(labels.shape)}: must be a list of class numbers")
        odd = labels[(labels < 0) | (labels >= classes)]
        if len(odd):
            raise UserError(f"{folder / 'labels.npy'}: class {int(odd[0])}: the network knows 0 .. {classes - 1}")
        self._arrays = {name: _array(folder / f"{name}.npy") for name in names}
        channels, height, width = shape
        for name, array in self._arrays.items():
            if array.dtype != np.uint8 or array.shape[1:] != (height, width, channels):
                raise UserError(
                    f"{folder / name}.npy: {array.dtype} {list(array.shape)}: must be uint8 [5 N, {height}, {width}, {channels}]"
                )
            if not len(array) or len(array) % len(SEVERITIES) or len(labels) not in (len(array), len(array) // len(SEVERITIES)):
                counts = f"{len(array):,} images, and {len(labels):,} labels in labels.npy"
                raise UserError(f"{folder / name}.npy: {counts}: must be five times N images, and as many labels, or N")
        self._labels, self._batch = labels.astype(np.int64), batch
        count = len(next(iter(self._arrays.values()))) // len(SEVERITIES)
        if len(labels) > count and (labels.reshape(len(SEVERITIES), count) != labels[:count]).any():
            raise UserError(
                f"{folder / 'labels.npy'}: the severities have different labels: must be the same images five times, by severity"
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
    """ImageNet-C as published: NAME/SEVERITY/CLASS/*.JPEG, or GROUP/NAME/SEVERITY/CLASS/*.JPEG; read while measuring.

    Pictures of the network's size are taken as they are, others are cut as test images are. Arguments as of `PublishedArrays`,
    with the names of the classes.

    Raises:
        UserError: a folder is missing, or has other classes.
    """

    def __init__(
        self, folder: Path, cells: Sequence[Cell], shape: tuple[int, int, int], classes: Sequence[str], most: int, batch: int
    ) -> None:
        self._shape, self._batch = shape, batch
        self._cells: dict[Cell, tuple[list[Path], NDArray[np.int64]]] = {}
        for name, severity in cells:
            above = [p for p in (folder / name, *sorted(folder.glob(f"*/{name}"))) if p.is_dir()]
            place = (above[0] if above else folder / name) / str(severity)
            if not place.is_dir():
                raise UserError(f"{place}: no such folder; --corrupted wants NAME.npy and labels.npy, or NAME/SEVERITY/CLASS/")
            listing = list_classes(place)
            names = list(map(escaped, listing.classes))
            if names != list(classes):
                odd = sorted(set(names) ^ set(classes))
                raise UserError(f"{place}: other classes than the network's: {', '.join(odd[:5])}")
            numbers = spread(len(listing.labels), most)
            self._cells[name, severity] = [Path(listing.items.read(i)) for i in numbers], listing.labels[numbers]  # type: ignore[arg-type]
        self.told = f"published pictures in {folder}, {len(next(iter(self._cells.values()))[0]):,} each"

    def batches(self, name: str, severity: int) -> Batches:
        """Images [B, C, H, W] uint8 and labels [B]."""
        paths, labels = self._cells[name, severity]
        with ThreadPoolExecutor() as pool:  # decoders leave Python's lock
            for numbers in slices(np.arange(len(paths)), self._batch):
                read = pool.map(lambda i: pictures.read(paths[i], self._shape, cut=True), numbers)
                yield torch.from_numpy(np.stack(list(read))), torch.from_numpy(labels[numbers])


def published(
    folder: str | Path, cells: Sequence[Cell], shape: tuple[int, int, int], classes: Sequence[str], most: int, batch: int
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


def choose_cells(names: str | None, severities: str | None) -> list[Cell]:
    """The corruptions and severities that a user names: "fog,noise" (corruptions and groups; "all" has all 19), "1,5".

    Raises:
        UserError: no such corruption, group or severity.
    """
    known = {**{name: (name,) for name in NAMES + EXTRA}, **GROUPS, "all": NAMES + EXTRA, "extra": EXTRA}
    chosen: list[str] = []
    for part in (names or ",".join(NAMES)).split(","):
        if part.strip() not in known:
            there = f"there are {', '.join(NAMES + EXTRA)}; {', '.join(GROUPS)}, extra and all"
            raise UserError(f"--corruptions {part}: no such corruption or group{did_you_mean(part, known)}; {there}")
        chosen += known[part.strip()]
    numbers = []
    for part in (severities or "1,2,3,4,5").split(","):
        if part.strip() not in map(str, SEVERITIES):
            raise UserError(f"--severities {part}: must be 1, 2, 3, 4 or 5")
        numbers.append(int(part))
    return [(name, severity) for name in dict.fromkeys(chosen) for severity in sorted(set(numbers))]


def measure(
    classifier: Classifier, clean: Batches, corrupted: Corrupted, cells: Sequence[Cell], device: torch.device, progress: Progress
) -> list[Scores]:
    """The scores of each of the classifier's answers.

    Args:
        classifier: what is measured.
        clean: batches of images as they are.
        corrupted: where the others come from.
        cells: which of them.
        device: where the networks are.
        progress: is told of each cell.
    """
    scores = [Scores(name) for name in classifier.answers]
    for cell in progress([None, *cells], "measuring", 1 + len(cells)):
        batches = clean if cell is None else corrupted.batches(*cell)
        counted = _count(classifier, batches, device)
        for one, counts in zip(scores, counted, strict=True):
            if cell is None:
                one.clean = counts
            else:
                one.cells[cell] = counts
    return scores


@torch.no_grad()
def _count(classifier: Classifier, batches: Batches, device: torch.device) -> list[Counts]:
    counts = [Counts() for _ in classifier.answers]
    for pixels, labels in batches:
        for one, classes in zip(counts, classifier.classes(pixels.to(device)), strict=True):
            one.images += len(labels)
            one.right += int((classes == labels.cpu()).sum())
    return counts


def read_reference(name: str, cells: Sequence[Cell], classes: int) -> dict[str, dict[int, float]]:
    """Errors in 0 .. 1 by corruption and severity: "alexnet" (on ImageNet-C), or the first of a JSON file that `as_json` gave.

    Raises:
        UserError: no such file, or it lacks what was measured.
    """
    wanted: dict[str, list[int]] = {}
    for of, severity in cells:
        if of in NAMES:
            wanted.setdefault(of, []).append(severity)
    if name == "alexnet":
        if classes != IMAGENET_CLASSES:
            raise UserError(f"--reference alexnet: its errors are those on ImageNet-C, and there are {classes} classes here")
        if any(severities != list(SEVERITIES) for severities in wanted.values()):
            raise UserError("--reference alexnet: its errors are over all five severities: leave out --severities")
        return {of: dict.fromkeys(SEVERITIES, ALEXNET[of]) for of in wanted}
    path = Path(name)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["results"][0]["corruptions"]
        found = {of: {s: 1 - float(told[of][str(s)]["accuracy"]) / 100 for s in severities} for of, severities in wanted.items()}
    except OSError as e:
        raise UserError(f"--reference {name}: cannot be read: {e.strerror}; or pass alexnet") from None
    except KeyError as e:
        raise UserError(
            f"--reference {name}: has no {one_line(e)}: measure it with the same corruptions and severities"
        ) from None
    except (ValueError, TypeError, IndexError, AttributeError):
        raise UserError(f"--reference {name}: not a file that biprop robustness wrote") from None
    if not all(math.isfinite(error) for errors in found.values() for error in errors.values()):
        raise UserError(f"--reference {name}: not a file that biprop robustness wrote")
    return found


def as_json(
    scores: Sequence[Scores], about: Mapping[str, Any], reference: Mapping[str, Mapping[int, float]] | None
) -> dict[str, Any]:
    """Everything, for programs; `read_reference` reads it."""

    def counted(counts: Counts) -> dict[str, Any]:
        return {"right": counts.right, "images": counts.images, "accuracy": round(counts.top1, 4)}

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return {
        **about,
        "results": [
            {
                "name": one.name,
                "clean": counted(one.clean),
                "mean": rounded(one.mean()),
                "groups": {group: rounded(one.mean(names)) for group, names in GROUPS.items()},
                "mce": rounded(one.mce(reference)) if reference else None,
                "corruptions": {
                    name: {str(severity): counted(counts) for (of, severity), counts in one.cells.items() if of == name}
                    for name in one.names
                },
            }
            for one in scores
        ],
    }


def as_rows(scores: Sequence[Scores]) -> list[list[str]]:
    """A line for each count, with a head, for CSV files; clean images are the corruption "none" of severity 0."""
    rows = [["name", "corruption", "severity", "right", "images", "accuracy"]]
    for one in scores:
        for (name, severity), counts in {("none", 0): one.clean, **one.cells}.items():
            rows.append([one.name, name, str(severity), str(counts.right), str(counts.images), f"{counts.top1:.4f}"])
    return rows


def in_words(name: str) -> str:
    """A corruption as people write it."""
    return name.replace("_", " ").replace("jpeg", "JPEG").removesuffix(" compression").removesuffix(" transform")


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
