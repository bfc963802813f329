"""Folders of images, parquet files and data sets of the Hub: which parts there are, and their
labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..names import escaped
from . import layouts
from .items import READ_COLUMNS, Listing, list_classes, list_hub, list_parquet, load_hub
from .labels import Classes
from .layouts import TEST, TRAIN, VALIDATION, part_of
from .sources import Parts, checked_folder
from .splits import TEST_LAYER, stratified


def recognise(folder: Path) -> str:
    """The set that a folder holds, as `--set` names it: one of those with names, by its official
    files, or "folder".

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
        "CIFAR10": (
            "plain_text/train-00000-of-00001.parquet",
            "cifar-10-batches-py/batches.meta",
            "batches.meta",
        ),
        "CIFAR100": ("cifar100/train-00000-of-00001.parquet", "cifar-100-python/meta", "meta"),
        "MNIST": tuple(
            f"{place}train-images-idx3-ubyte{end}"
            for place in ("", "raw/", "MNIST/raw/")
            for end in ("", ".gz")
        ),
        "TinyImageNet": ("val/val_annotations.txt", "tiny-imagenet-200/val/val_annotations.txt"),
    }
    found = [
        name
        for name in marks
        if any((home / mark).is_file() for home in homes[name] for mark in marks[name])
    ]
    if len(found) > 1:
        raise UserError(
            f"--data {folder}: holds {' and '.join(found)}: pass --set with one of them"
        )
    return found[0] if found else "folder"


def find_listings(folder: Path) -> Parts:
    """The parts of a folder of parquet files or of images; see `layouts`.

    Raises:
        UserError: no folder, no known layout, or parts with different classes.
    """
    files = layouts.of_parquet(checked_folder(folder))
    return parts_of_parquet(folder, files) if files else _of_pictures(folder)


def imagenet(folder: Path) -> Parts:
    """The same for ImageNet, which may lie beside other data sets in a folder of its own name."""
    homes = layouts.places(checked_folder(folder), "imagenet", "imagenet-1k", "ILSVRC2012")
    return find_listings(homes[-1])


def parquet_parts(place: Path, default: Sequence[str]) -> Parts:
    """Of parquet files that lie directly in a folder."""
    files: dict[str, list[Path]] = {}
    for path in sorted(place.glob("*.parquet")):
        files.setdefault(part_of(path.name.partition("-")[0]) or "", []).append(path)
    if TEST not in files:
        raise UserError(f"{place}: no test-*.parquet beside the other parts")
    return parts_of_parquet(place, files, default)


def parts_of_parquet(
    folder: Path, files: Mapping[str, Sequence[Path]], default: Sequence[str] = ()
) -> Parts:
    train = list_parquet(files[TRAIN], default=default)
    if train is None:
        raise UserError(f"{files[TRAIN][0]}: training images without labels; {READ_COLUMNS}")
    known = Classes(train.classes, train.origin)
    others = {
        part: list_parquet(files[part], known) for part in (VALIDATION, TEST) if part in files
    }
    names = {
        part: f"{len(paths)} parquet file{'s' * (len(paths) > 1)}"
        for part, paths in files.items()
        if part
    }
    return _assembled(folder, train, others, names)


def _of_pictures(folder: Path) -> Parts:
    places = layouts.of_pictures(folder)
    train = list_classes(places.get(TRAIN) or places[""])
    others = {
        part: _labelled_part(place, train)
        for part, place in places.items()
        if part in (VALIDATION, TEST)
    }
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
        raise UserError(
            f"{place}: its classes are not those of the training part: {', '.join(odd[:5])} on one"
            " side only"
        )
    return list_classes(place)


def _assembled(
    folder: Path, train: Listing, others: Mapping[str, Listing | None], names: Mapping[str, str]
) -> Parts:
    """The parts, with a word on each: without a labelled test part, the validation part is it, or
    else a fifth is split off.

    Args:
        folder: for messages.
        train: the training part.
        others: the validation and the test part, where there are any; None for one without labels.
        names: of the parts, as the user sees them.
    """
    if len(train.classes) < 2:
        raise UserError(
            f"{folder}: needs images of two classes or more, found {', '.join(train.classes)}"
        )
    for part, listing in others.items():
        if listing is None:
            train.notes.append(
                f"{folder}: the {part} part ({names[part]}) has no labels, and is left out"
            )
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
    return Parts(
        train,
        test,
        held_out,
        f"{len(train.classes)} classes ({shown}), {count:,} images: {', '.join(told)}",
    )


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
        raise UserError(
            f"--data {name}: no {what}: has {', '.join(loaded)}; pass --train-split and"
            " --test-split"
        )
    unknown = [part for part in loaded if part not in names.values()]
    if unknown and not (train or test):
        raise UserError(
            f"--data {name}: has the parts {', '.join(loaded)}, and {unknown[0]} means none: pass"
            " --train-split and --test-split"
        )
    first = list_hub(loaded[names[TRAIN]], f"{name} ({names[TRAIN]})")
    if first is None:
        raise UserError(
            f"--data {name}: no labels in {names[TRAIN]}, of the columns"
            f" {', '.join(loaded[names[TRAIN]].features)}"
        )
    known = Classes(first.classes, first.origin)
    others = {
        part: list_hub(loaded[names[part]], f"{name} ({names[part]})", known)
        for part in (VALIDATION, TEST)
        if part in names
    }
    return _assembled(Path(name), first, others, names)
