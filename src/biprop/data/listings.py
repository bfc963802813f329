"""The parts of folders of images, parquet files and data sets of the Hub, with their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import npz
from ..errors import UserError
from ..names import TEST, TRAIN, VALIDATION, escaped, part_of
from . import layouts
from .items import READ_COLUMNS, Listing, list_classes, list_hub, list_parquet, load_hub
from .labels import Classes
from .sources import Parts, checked_folder
from .splits import TEST_LAYER, stratified


def recognise(folder: Path) -> str:
    """The data set in a folder, as `--set` names it: one of those with names, by its official
    files, or "folder"; "arrays" for a .npz file.

    Raises:
        UserError: no folder, or several data sets.
    """
    if folder.suffix.lower() == npz.SUFFIX and not folder.is_dir():
        return "arrays"
    checked_folder(folder)
    names = [name for name in _OFFICIAL_FILES if _has_official_files(folder, name)]
    if len(names) > 1:
        raise UserError(
            f"--data {folder}: holds {' and '.join(names)}: pass --set with one of them"
        )
    return names[0] if names else "folder"


def _has_official_files(folder: Path, name: str) -> bool:
    homes = layouts.places(folder, _OFFICIAL_FOLDERS.get(name, name))
    return any((home / file).is_file() for home in homes for file in _OFFICIAL_FILES[name])


_OFFICIAL_FOLDERS = {"TinyImageNet": "tiny-imagenet-200"}
"""Data set -> its folder beside other data sets, where that has another name."""
_OFFICIAL_FILES = {
    "CIFAR10": (
        "plain_text/train-00000-of-00001.parquet",
        "cifar-10-batches-py/batches.meta",
        "batches.meta",
    ),
    "CIFAR100": ("cifar100/train-00000-of-00001.parquet", "cifar-100-python/meta", "meta"),
    "MNIST": tuple(
        f"{place}train-images-idx3-ubyte{suffix}"
        for place in ("", "raw/", "MNIST/raw/")
        for suffix in ("", ".gz")
    ),
    "TinyImageNet": ("val/val_annotations.txt", "tiny-imagenet-200/val/val_annotations.txt"),
}
"""Data set -> files of which one is enough to recognise it."""


def find_listings(folder: Path) -> Parts:
    """The parts of a folder of parquet files or of images; see `layouts`.

    Raises:
        UserError: no folder, no known layout, or parts with different classes.
    """
    files = layouts.of_parquet(checked_folder(folder))
    return parts_of_parquet(folder, files) if files else _of_images(folder)


def imagenet(folder: Path) -> Parts:
    """The parts of ImageNet, which may be beside other data sets in a folder of its own name.

    Raises:
        UserError: as `find_listings`.
    """
    homes = layouts.places(checked_folder(folder), "imagenet", "imagenet-1k", "ILSVRC2012")
    return find_listings(homes[-1])


def parquet_parts(place: Path, default: Sequence[str]) -> Parts:
    """The parts of parquet files directly in a folder; arguments as of `parts_of_parquet`.

    Raises:
        UserError: there is no test part.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(place.glob("*.parquet")):
        part = part_of(path.name.partition("-")[0])
        files.setdefault(part or "", []).append(path)
    if TEST not in files:
        raise UserError(f"{place}: no test-*.parquet beside the other parts")
    return parts_of_parquet(place, files, default)


def parts_of_parquet(
    folder: Path, files: Mapping[str, Sequence[Path]], default: Sequence[str] = ()
) -> Parts:
    """The parts of a data set in parquet files.

    Args:
        folder: for messages.
        files: part -> its files.
        default: names of the classes where the files name none.

    Raises:
        UserError: see `items.list_parquet`; or the training images have no labels.
    """
    train = list_parquet(files[TRAIN], default=default)
    if train is None:
        raise UserError(f"{files[TRAIN][0]}: training images without labels; {READ_COLUMNS}")
    known = Classes(train.classes, train.origin)
    other_parts = {
        part: list_parquet(files[part], known) for part in (VALIDATION, TEST) if part in files
    }
    counts = {part: len(paths) for part, paths in files.items() if part}
    names = {part: f"{count} parquet file{'s' * (count > 1)}" for part, count in counts.items()}
    return _assembled(folder, train, other_parts, names)


def _of_images(folder: Path) -> Parts:
    """The parts of a folder of images."""
    places = layouts.of_images(folder)
    train = list_classes(places.get(TRAIN) or places[""])
    other_parts = {
        part: _labelled_part(place, train)
        for part, place in places.items()
        if part in (VALIDATION, TEST)
    }
    names = {part or TRAIN: f"{place.relative_to(folder)}/" for part, place in places.items()}
    return _assembled(folder, train, other_parts, names)


def _labelled_part(place: Path, train: Listing) -> Listing | None:
    """Images of the classes of the training part, or None where they are in no folders of classes.

    Raises:
        UserError: the part has other classes.
    """
    classes = {path.name for path in layouts.visible_folders(place)}
    if classes.isdisjoint(train.classes) and len(classes) < 2:
        return None
    different = sorted(classes ^ set(train.classes))
    if different:
        raise UserError(
            f"{place}: its classes are not those of the training part: {', '.join(different[:5])}"
            " on one side only"
        )
    return list_classes(place)


def _assembled(
    folder: Path,
    train: Listing,
    other_parts: Mapping[str, Listing | None],
    names: Mapping[str, str],
) -> Parts:
    """The parts of a data set, and their description for the user.

    Without a labelled test part, the validation part is the test set, or else a fifth of the
    training part is split off.

    Args:
        folder: for messages.
        train: the training part.
        other_parts: validation and test part, where there are any; None for one without labels.
        names: of the parts, as the user sees them.

    Raises:
        UserError: fewer than two classes, or a class with too few images to split off a test part.
    """
    if len(train.classes) < 2:
        raise UserError(
            f"{folder}: needs images of two classes or more, found {', '.join(train.classes)}"
        )
    train.notes += [
        f"{folder}: the {part} part ({names[part]}) has no labels, and is left out"
        for part, listing in other_parts.items()
        if listing is None
    ]
    described = [f"{TRAIN} {names[TRAIN]}"]
    test, validation = other_parts.get(TEST), other_parts.get(VALIDATION)
    held_out = None
    if test:
        described.append(f"{TEST} {names[TEST]}")
        if validation:
            train, held_out = _with_validation(train, validation)
            described.append(f"{VALIDATION} {names[VALIDATION]}")
    elif validation:
        test = validation
        described.append(f"{TEST} {names[VALIDATION]}")
    else:
        train, test = split_off_test(train)
        described.append("a fifth of it held out as the test set")
    return Parts(train, test, held_out, f"{_summary(train, test)}: {', '.join(described)}")


def _with_validation(train: Listing, validation: Listing) -> tuple[Listing, NDArray[np.bool_]]:
    """Both parts as one, and which of its images are the validation part, [N] bool."""
    count = len(train.labels)
    joined = train.followed_by(validation)
    return joined, np.arange(len(joined.labels)) >= count


def _summary(train: Listing, test: Listing) -> str:
    """Classes and number of images, in words."""
    classes = train.classes
    names = ", ".join(map(escaped, classes[:5])) + (", ..." if len(classes) > 5 else "")
    count = len(train.labels) + len(test.labels)
    return f"{len(classes)} classes ({names}), {count:,} images"


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


def hub(
    name: str, configuration: str | None = None, train: str | None = None, test: str | None = None
) -> Parts:
    """A data set that the package `datasets` loads.

    Args:
        name: see `items.load_hub`.
        configuration: which one, where there are several.
        train, test: names of the parts to use, instead of those that `names.PART_NAMES` finds.

    Raises:
        UserError: see `items.load_hub` and `items.list_hub`; or no such part.
    """
    loaded = load_hub(name, configuration)
    names = _hub_parts(loaded, name, train, test)
    training = names[TRAIN]
    first = list_hub(loaded[training], f"{name} ({training})")
    if first is None:
        columns = ", ".join(loaded[training].features)
        raise UserError(f"--data {name}: no labels in {training}, of the columns {columns}")
    known = Classes(first.classes, first.origin)
    other_parts = {
        part: list_hub(loaded[names[part]], f"{name} ({names[part]})", known)
        for part in (VALIDATION, TEST)
        if part in names
    }
    return _assembled(Path(name), first, other_parts, names)


def _hub_parts(
    loaded: Mapping[str, Any], name: str, train: str | None, test: str | None
) -> dict[str, str]:
    """Part -> its name in a Hub data set; arguments as of `hub`.

    Raises:
        UserError: no such part, or one whose name means none.
    """
    names = layouts.parts_among(loaded, f"--data {name}")
    if train or test:
        names = {TRAIN: train or names.get(TRAIN, ""), **({TEST: test} if test else {})}
    available = ", ".join(loaded)
    lacking = [part for part in names.values() if part not in loaded]
    if TRAIN not in names or lacking:
        what = ", ".join(lacking) or "training part"
        raise UserError(
            f"--data {name}: no {what}: has {available}; pass --train-split and --test-split"
        )
    unknown = [part for part in loaded if part not in names.values()]
    if unknown and not (train or test):
        raise UserError(
            f"--data {name}: has the parts {available}, and {unknown[0]} means none: pass"
            " --train-split and --test-split"
        )
    return names
