"""How data sets lie in folders: which folders and files are parts (training, validation, test), and
which are classes.

One table of names serves folders, parquet files and the parts of Hub data sets. What is none of the
known layouts is refused, with what was found: a network that learned to tell training images from
test images would look like one that learned the classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import UserError
from ..images import is_hidden, suffixes

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PART_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
"""Names of parts, in lower case.

Any case is recognised, and a common beginning or end, as in seg_train and seg_test.
"""

KNOWN = (
    "train/CLASS/ beside test/CLASS/ or val/CLASS/ (also training, validation, valid, dev, testing,"
    " any case, or with a common beginning as in seg_train and seg_test); CLASS/ alone; or parquet"
    " files train-*.parquet or train/*.parquet and so on"
)
_DEEPEST = 4
"""Folders below the one named in which parquet files are looked for:
CONFIGURATION/data/train/0000.parquet is three.
"""
_MANY_IMAGES = 1000
"""Below the folder named: more are no pictures beside parquet files, but a folder of images."""
_SHARD = re.compile(r"([-_.]?\d+)+(-of-\d+)?$")
"""The number of a file among those of its part, as in train-00000-of-00014."""


def part_of(name: str) -> str | None:
    """The part that a name means by itself, whatever its case."""
    return PART_NAMES.get(name.lower())


def _part_and_rest(name: str) -> tuple[str, str] | None:
    """The part at the beginning or end of a name, and the rest, which must be common: seg_train is
    (train, "seg_*").
    """
    lower = name.lower()
    if lower in PART_NAMES:
        return PART_NAMES[lower], ""
    first, last = re.match(r"[a-z]+(?=[-_. ])", lower), re.search(r"(?<=[-_. ])[a-z]+$", lower)
    if last and last[0] in PART_NAMES:
        return PART_NAMES[last[0]], lower[: last.start()] + "*"
    if first and first[0] in PART_NAMES:
        return PART_NAMES[first[0]], "*" + lower[first.end() :]
    return None


def parts_among(names: Iterable[str], where: object) -> dict[str, str]:
    """Part -> the one of the names that means it; empty if none do.

    Names that mean parts by themselves come first; else those with a common beginning or end, if
    there are at least two.

    Raises:
        UserError: two names mean the same part.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        if found := _part_and_rest(name):
            part, rest = found
            groups.setdefault(rest, []).append((part, name))
    chosen = groups.get("")
    if chosen is None:
        several = [group for group in groups.values() if len({part for part, _ in group}) > 1]
        if len(several) != 1:
            return {}
        chosen = several[0]
    parts: dict[str, str] = {}
    for part, name in chosen:
        if part in parts:
            raise UserError(
                f"{where}: {parts[part]} and {name} are one part, {part}: remove or rename one of"
                " them"
            )
        parts[part] = name
    return parts


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder that may be data, sorted by name; links count."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name) and path.is_dir())


def loose_pictures(folder: Path) -> list[Path]:
    """The images that lie in a folder itself, not below it."""
    known = suffixes()
    return sorted(
        p
        for p in folder.iterdir()
        if not is_hidden(p.name) and p.suffix.lower() in known and not p.is_dir()
    )


def places(folder: Path, *names: str) -> list[Path]:
    """The folder, and those in it that have one of the names, whatever the case: where one data set
    lies beside others.
    """
    wanted = [name.lower() for name in names]
    below = [path for path in visible_folders(folder) if path.name.lower() in wanted]
    return [folder, *sorted(below, key=lambda path: wanted.index(path.name.lower()))]


def of_pictures(folder: Path) -> dict[str, Path]:
    """The parts of a folder of images: part -> the folder that holds its folders of classes, if it
    has any.

    A folder without parts is one of classes: {"": folder}.

    Raises:
        UserError: neither.
    """
    folders = visible_folders(folder)
    if (
        len(folders) == 1
        and not loose_pictures(folder)
        and not loose_pictures(folders[0])
        and part_of(folders[0].name) is None
    ):
        inside = visible_folders(folders[0])
        if len(inside) > 1 or any(
            part_of(path.name) for path in inside
        ):  # what an archive unpacks: one folder around it all
            return of_pictures(folders[0])
    names = parts_among((path.name for path in folders), folder)
    if names and not _is_class_of_that_name(folders, list(names.values())):
        return _parts(folder, folders, names)
    _check_classes(folder, folders)
    return {"": folder}


def _is_class_of_that_name(folders: Sequence[Path], named: Sequence[str]) -> bool:
    """Whether the one folder whose name means a part is a class beside two others or more: car/,
    ship/ and train/.
    """
    others = [path for path in folders if path.name not in named]
    if len(named) > 1 or len(others) < 2 or any(_part_and_rest(path.name) for path in others):
        return False
    return all(loose_pictures(path) and not visible_folders(path) for path in folders)


def _parts(folder: Path, folders: Sequence[Path], names: Mapping[str, str]) -> dict[str, Path]:
    if TRAIN not in names:
        raise _unknown(folder, folders, "no training part")
    parts = {part: _inside(folder / name) for part, name in names.items()}
    first: dict[Path, str] = {}
    for part, path in parts.items():
        other = first.setdefault(path.resolve(), part)
        if other != part:
            raise UserError(f"{folder}: {names[other]} and {names[part]} are the same folder")
    known = {path.name for path in visible_folders(parts[TRAIN])}
    for path in folders:
        if path.name not in names.values() and known & {
            inside.name for inside in visible_folders(_inside(path))
        }:
            raise _unknown(
                folder, folders, f"{path.name}/ has folders of classes, but its name means no part"
            )
    return parts


def _inside(part: Path) -> Path:
    """Where the folders of classes are: some archives have seg_train/seg_train/CLASS."""
    folders = visible_folders(part)
    if (
        len(folders) == 1
        and not loose_pictures(folders[0])
        and len(visible_folders(folders[0])) > 1
    ):
        return folders[0]
    return part


def _check_classes(folder: Path, folders: Sequence[Path]) -> None:
    """Raise UserError where what look like classes are data sets, or parts of unknown names."""
    if len(folders) < 2:
        return
    contents = {path: [inside.name for inside in visible_folders(path)] for path in folders}
    for path, inside in contents.items():
        parts = [name for name in inside if part_of(name)]
        if parts:
            raise _unknown(
                folder,
                folders,
                f"{path.name}/ is no class: it has {', '.join(f'{name}/' for name in parts)}",
            )
    nested = [
        set(inside) for path, inside in contents.items() if inside and not loose_pictures(path)
    ]
    if len(nested) > 1:
        common = sorted(set.intersection(*nested))
        if len(common) > 1:
            shared = ", ".join(f"{name}/" for name in common[:4])
            raise _unknown(folder, folders, f"they all have {shared}: are they parts?")


def _unknown(folder: Path, folders: Sequence[Path], why: str) -> UserError:
    found = ", ".join(f"{path.name}/" for path in folders[:8]) + (
        ", ..." if len(folders) > 8 else ""
    )
    return UserError(
        f"{folder}: no known layout: found {found or 'no folders'}; {why}; known are {KNOWN}"
    )


def parquet_files(folder: Path) -> list[Path]:
    """The visible parquet files in a folder and below, sorted.

    Folders that hold many images are not searched to the end.
    """
    found: list[Path] = []
    level, known, images = [folder], suffixes(), 0
    for _ in range(_DEEPEST + 1):
        deeper: list[Path] = []
        for place in level:
            with os.scandir(place) as entries:
                for entry in entries:
                    name = entry.name.lower()
                    if is_hidden(entry.name):
                        continue
                    if name.endswith(".parquet"):
                        found.append(Path(entry.path))
                    elif name.endswith(known):
                        images += 1
                    elif entry.is_dir():
                        deeper.append(Path(entry.path))
            if images > _MANY_IMAGES:
                return sorted(found)
        level = deeper
    return sorted(found)


def of_parquet(folder: Path) -> dict[str, list[Path]]:
    """The parquet files of each part, by the names of the files or of the folders that they are in;
    {} if there are none.

    Files of which none is named after a part are all of the training part.

    Raises:
        UserError: several data sets, or files that belong to no part while others do.
    """
    files = parquet_files(folder)
    groups: dict[tuple[Path, str], dict[str, list[Path]]] = {}
    for path in files:
        place, rest, part = _place_of(path, folder)
        groups.setdefault((place, rest), {}).setdefault(part, []).append(path)
    trained = {key: parts for key, parts in groups.items() if TRAIN in parts}
    if len(groups) == 1 and not trained:
        ((_, parts),) = groups.items()
        if list(parts) == [""]:
            return {TRAIN: parts[""]}
    if files and len(trained) != 1:
        what = (
            "several data sets, pass --data with the folder of one"
            if trained
            else "no training part"
        )
        raise UserError(f"{folder}: {what}: found {_some(files, folder)}; known are {KNOWN}")
    for key, parts in groups.items():
        others = (
            parts.get("", [])
            if key in trained
            else [path for paths in parts.values() for path in paths]
        )
        if others:
            raise UserError(
                f"{folder}: {_some(others, folder)}: the name means no part of the data set; move"
                f" what is none of it away; known are {KNOWN}"
            )
    return next(iter(trained.values()), {})


def _some(files: Sequence[Path], folder: Path) -> str:
    shown = ", ".join(str(path.relative_to(folder)) for path in files[:4])
    return shown + (f" and {len(files) - 4} more" if len(files) > 4 else "")


def _place_of(path: Path, folder: Path) -> tuple[Path, str, str]:
    """(folder of the data set, what the names of its parts have in common, part) of a parquet file;
    part "" if no name says.
    """
    stem = _SHARD.sub("", path.name.partition(".")[0])
    if found := _part_and_rest(stem):
        return path.parent, found[1], found[0]
    for above in path.parents:
        if above == folder:
            break
        name = above.name.lower().removeprefix("partial-")  # the Hub's copies of large data sets
        if found := _part_and_rest(name):
            return above.parent, found[1], found[0]
    return path.parent, "", ""
