"""Layouts of data sets: which folders and files are parts (training, validation, test), and which
are classes.

One table of names serves folders, parquet files and the parts of Hub data sets. Unknown layouts are
refused, with what was found: a network that learned to distinguish training images from test images
would look like one that learned the classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import UserError
from ..images import is_hidden, suffixes
from ..names import PART_NAMES, TRAIN, part_of

KNOWN = (
    "train/CLASS/ beside test/CLASS/ or val/CLASS/ (also training, validation, valid, dev, testing,"
    " any case, or with a common beginning as in seg_train and seg_test); CLASS/ alone; or parquet"
    " files train-*.parquet or train/*.parquet and so on"
)
_DEEPEST = 4
"""Levels of folders that are searched for parquet files: CONFIGURATION/data/train/0000.parquet is
three.
"""
_MANY_IMAGES = 1000
"""Images in a folder: more are not a few images beside parquet files, but a folder of images."""
_SHARD = re.compile(r"([-_.]?\d+)+(-of-\d+)?$")
"""The number of a file among those of its part, as in train-00000-of-00014."""


def _part_and_rest(name: str) -> tuple[str, str] | None:
    """The part at the beginning or end of a name, and the rest, which the names of the other parts
    must share: seg_train is (train, "seg_*").
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
    """Part -> the name among these that means it; empty if none do.

    Names that mean parts by themselves come first; else those with a common prefix or suffix, if
    there are at least two.

    Raises:
        UserError: two names mean the same part.
    """
    parts: dict[str, str] = {}
    for part, name in _parts_of_one_set(names):
        if part in parts:
            raise UserError(
                f"{where}: {parts[part]} and {name} are one part, {part}: remove or rename one of"
                " them"
            )
        parts[part] = name
    return parts


def _parts_of_one_set(names: Iterable[str]) -> list[tuple[str, str]]:
    """(part, name) of the names that mean parts of the same data set."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        if match := _part_and_rest(name):
            part, rest = match
            groups.setdefault(rest, []).append((part, name))
    if "" in groups:
        return groups[""]
    several = [group for group in groups.values() if len({part for part, _ in group}) > 1]
    return several[0] if len(several) == 1 else []


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder that may be data, sorted by name; links count."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name) and path.is_dir())


def loose_images(folder: Path) -> list[Path]:
    """The images directly in a folder, not those in the folders in it, sorted."""
    known = suffixes()
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in known and not is_hidden(path.name) and not path.is_dir()
    )


def places(folder: Path, *names: str) -> list[Path]:
    """The folder, and those in it that have one of the names, whatever the case, in the order of
    the names: a data set may be beside others.
    """
    wanted = [name.lower() for name in names]
    below = [path for path in visible_folders(folder) if path.name.lower() in wanted]
    return [folder, *sorted(below, key=lambda path: wanted.index(path.name.lower()))]


def of_images(folder: Path) -> dict[str, Path]:
    """The parts of a folder of images: part -> the folder that contains its folders of classes.

    A folder without parts is one of classes: {"": folder}.

    Raises:
        UserError: neither.
    """
    folders = visible_folders(folder)
    if _is_wrapper(folder, folders):
        return of_images(folders[0])
    names = parts_among((path.name for path in folders), folder)
    if names and not _is_class_of_that_name(folders, list(names.values())):
        return _parts(folder, folders, names)
    _check_classes(folder, folders)
    return {"": folder}


def _is_wrapper(folder: Path, folders: Sequence[Path]) -> bool:
    """Whether a folder has nothing but one folder around everything, as archives unpack."""
    if len(folders) != 1 or loose_images(folder) or loose_images(folders[0]):
        return False
    if part_of(folders[0].name) is not None:
        return False
    inside = visible_folders(folders[0])
    return len(inside) > 1 or any(part_of(path.name) for path in inside)


def _is_class_of_that_name(folders: Sequence[Path], named: Sequence[str]) -> bool:
    """Whether the one folder whose name means a part is a class beside two others or more: car/,
    ship/ and train/.
    """
    unnamed = [path for path in folders if path.name not in named]
    if len(named) > 1 or len(unnamed) < 2 or any(_part_and_rest(path.name) for path in unnamed):
        return False
    return all(loose_images(path) and not visible_folders(path) for path in unnamed)


def _parts(folder: Path, folders: Sequence[Path], names: Mapping[str, str]) -> dict[str, Path]:
    """Part -> the folder that contains its folders of classes.

    Args:
        folder: the data set.
        folders: in it.
        names: part -> name of its folder.

    Raises:
        UserError: no training part, two parts in one folder, or a folder that looks like a part of
            unknown name.
    """
    if TRAIN not in names:
        raise _unknown(folder, folders, "no training part")
    parts = {part: _inside(folder / name) for part, name in names.items()}
    first: dict[Path, str] = {}
    for part, path in parts.items():
        other = first.setdefault(path.resolve(), part)
        if other != part:
            raise UserError(f"{folder}: {names[other]} and {names[part]} are the same folder")
    classes = _names_inside(parts[TRAIN])
    for path in folders:
        if path.name not in names.values() and classes & _names_inside(_inside(path)):
            raise _unknown(
                folder, folders, f"{path.name}/ has folders of classes, but its name means no part"
            )
    return parts


def _names_inside(folder: Path) -> set[str]:
    return {path.name for path in visible_folders(folder)}


def _inside(part: Path) -> Path:
    """The folder that contains the folders of classes: in some archives, seg_train/seg_train/."""
    folders = visible_folders(part)
    if len(folders) != 1 or loose_images(folders[0]):
        return part
    return folders[0] if len(visible_folders(folders[0])) > 1 else part


def _check_classes(folder: Path, folders: Sequence[Path]) -> None:
    """Raise UserError where what look like classes are data sets, or parts of unknown names."""
    if len(folders) < 2:
        return
    contents = {path: [inside.name for inside in visible_folders(path)] for path in folders}
    for path, inside in contents.items():
        if parts := [name for name in inside if part_of(name)]:
            reason = f"{path.name}/ is no class: it has {_as_folders(parts)}"
            raise _unknown(folder, folders, reason)
    nested = [set(inside) for path, inside in contents.items() if inside and not loose_images(path)]
    common = sorted(set.intersection(*nested)) if len(nested) > 1 else []
    if len(common) > 1:
        raise _unknown(folder, folders, f"they all have {_as_folders(common[:4])}: are they parts?")


def _as_folders(names: Sequence[str]) -> str:
    return ", ".join(f"{name}/" for name in names)


def _unknown(folder: Path, folders: Sequence[Path], why: str) -> UserError:
    names = _as_folders([path.name for path in folders[:8]]) + ", ..." * (len(folders) > 8)
    return UserError(
        f"{folder}: no known layout: found {names or 'no folders'}; {why}; known are {KNOWN}"
    )


def parquet_files(folder: Path) -> list[Path]:
    """The visible parquet files in a folder and in those in it, down to `_DEEPEST`, sorted.

    Folders with many images are not searched to the end.
    """
    files: list[Path] = []
    level, images = [folder], 0
    for _ in range(_DEEPEST + 1):
        deeper: list[Path] = []
        for place in level:
            tables, folders, count = _scan(place)
            files += tables
            deeper += folders
            images += count
            if images > _MANY_IMAGES:
                return sorted(files)
        level = deeper
    return sorted(files)


def _scan(folder: Path) -> tuple[list[Path], list[Path], int]:
    """The visible parquet files and folders in a folder, and the number of images in it."""
    known = suffixes()
    files, folders, images = [], [], 0
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.lower()
            if is_hidden(entry.name):
                continue
            if name.endswith(".parquet"):
                files.append(Path(entry.path))
            elif name.endswith(known):
                images += 1
            elif entry.is_dir():
                folders.append(Path(entry.path))
    return files, folders, images


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
    if [list(parts) for parts in groups.values()] == [[""]]:
        return {TRAIN: files}
    trained = [parts for parts in groups.values() if TRAIN in parts]
    if files and len(trained) != 1:
        several = "several data sets, pass --data with the folder of one"
        what = several if trained else "no training part"
        raise UserError(f"{folder}: {what}: found {_some(files, folder)}; known are {KNOWN}")
    for parts in groups.values():
        unnamed = parts.get("", []) if TRAIN in parts else _all_files(parts)
        if unnamed:
            raise UserError(
                f"{folder}: {_some(unnamed, folder)}: the name means no part of the data set; move"
                f" what is none of it away; known are {KNOWN}"
            )
    return next(iter(trained), {})


def _all_files(parts: Mapping[str, Sequence[Path]]) -> list[Path]:
    return [path for files in parts.values() for path in files]


def _some(files: Sequence[Path], folder: Path) -> str:
    """The first of the files, and how many more there are, in words."""
    shown = ", ".join(str(path.relative_to(folder)) for path in files[:4])
    return shown + (f" and {len(files) - 4} more" if len(files) > 4 else "")


def _place_of(path: Path, folder: Path) -> tuple[Path, str, str]:
    """(folder of the data set, what the names of its parts have in common, part) of a parquet file;
    part "" if no name means one.
    """
    stem = _SHARD.sub("", path.name.partition(".")[0])
    if match := _part_and_rest(stem):
        part, rest = match
        return path.parent, rest, part
    for above in path.parents:
        if above == folder:
            break
        name = above.name.lower().removeprefix("partial-")  # the Hub's copies of large data sets
        if match := _part_and_rest(name):
            part, rest = match
            return above.parent, rest, part
    return path.parent, "", ""
