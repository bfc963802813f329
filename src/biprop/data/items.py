"""Encoded images by number, from files in folders, rows of parquet files or rows of a Hub data set.

The readers (into memory, or streamed while training) do not depend on which. All classes here can
be pickled for worker processes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, one_line
from ..images import UNREAD_SUFFIXES, files_below, suffixes
from .labels import Classes, Labels, Origin, common_classes, matched, missing, of_column
from .layouts import KNOWN, loose_images, visible_folders

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "fine_label", "labels")
READ_COLUMNS = (
    f"images are read from {' or '.join(IMAGE_COLUMNS)}, labels from {', '.join(LABEL_COLUMNS)}"
)
IMAGES_KEPT = 2000
"""Encoded images of parquet files that a reader keeps in memory, about."""
Mask = NDArray[np.bool_]
Integers = NDArray[np.int64]


class Items(Protocol):
    """A list of encoded images.

    Attributes:
        groups: [N] int64: the images of one group are read together.
        pool: how many groups are cached; a reader that stays within that many reads each once.
    """

    groups: Integers
    pool: int

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes | Path:
        """The content of an image file, or the file's path."""
        ...

    def name(self, index: int) -> str:
        """The image's name for messages."""
        ...


@dataclass
class Listing:
    """One part of a data set.

    Attributes:
        items: its encoded images, N of them.
        labels: [N] int64, indices into `classes`.
        classes: names of the classes.
        origin: where the names come from, see `labels.Classes`.
        notes: for the user, a line each.
    """

    items: Items
    labels: Integers
    classes: list[str]
    origin: Origin = "declared"
    notes: list[str] = field(default_factory=list)

    def subset(self, chosen: Mask) -> Listing:
        """Those where `chosen` [N] is true, without notes."""
        items = _Some(self.items, np.flatnonzero(chosen))
        return replace(self, items=items, labels=self.labels[chosen], notes=[])

    def followed_by(self, other: Listing) -> Listing:
        """Both, as one part with the classes of this one."""
        items = _Joined(self.items, other.items)
        return replace(self, items=items, labels=np.concatenate([self.labels, other.labels]))


class Files:
    """Images in files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.groups, self.pool = np.arange(len(paths)), 1

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Path:
        """The path of the file, which is decoded from there."""
        return self.paths[index]

    def name(self, index: int) -> str:
        """The path of the file."""
        return str(self.paths[index])


class _Some:
    """Some of the items of a list."""

    def __init__(self, items: Items, chosen: Integers) -> None:
        self.items, self.chosen = items, chosen
        self.groups, self.pool = items.groups[chosen], items.pool

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, index: int) -> bytes | Path:
        return self.items.read(int(self.chosen[index]))

    def name(self, index: int) -> str:
        return self.items.name(int(self.chosen[index]))


class _Joined:
    """The items of two lists, one after the other."""

    def __init__(self, first: Items, second: Items) -> None:
        self.first, self.second = first, second
        end = int(first.groups.max(initial=-1)) + 1
        self.groups = np.concatenate([first.groups, second.groups + end])
        self.pool = min(first.pool, second.pool)

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def _at(self, index: int) -> tuple[Items, int]:
        count = len(self.first)
        return (self.first, index) if index < count else (self.second, index - count)

    def read(self, index: int) -> bytes | Path:
        items, own = self._at(index)
        return items.read(own)

    def name(self, index: int) -> str:
        items, own = self._at(index)
        return items.name(own)


class Parquet:
    """Images in the row groups of parquet files: a column of {bytes, path}, as on the Hugging Face
    Hub, or of bytes.

    A row group is read whole and the last few are cached: memory is bounded whatever the size of
    the files.

    Args:
        paths: the files.
        column: name of the column of images.
        rows: (number of the file, number of its row group, rows in that).
    """

    def __init__(
        self, paths: Sequence[Path], column: str, rows: Sequence[tuple[int, int, int]]
    ) -> None:
        self.paths, self.column = list(paths), column
        self.row_groups = [(file, group) for file, group, _ in rows]
        counts = np.array([count for *_, count in rows], dtype=np.int64)
        self.starts = np.concatenate([[0], counts.cumsum()])
        self.groups = np.repeat(np.arange(len(rows)), counts)
        self.pool = max(2, IMAGES_KEPT // max(1, int(counts.max())))
        self._kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def read(self, index: int) -> bytes:
        """The content of the image file in a row; reads its whole row group if that is not cached.

        Raises:
            UserError: the row holds no image, or the parquet file cannot be read.
        """
        group = int(self.groups[index])
        if group not in self._kept:
            while len(self._kept) >= self.pool:
                self._kept.pop(next(iter(self._kept)))
            self._kept[group] = self._read_group(group)
        data = self._kept[group][index - int(self.starts[group])].as_py()
        if not data:
            raise UserError(f"{self.name(index)}: holds no image (null, or only a path)")
        return data  # type: ignore[no-any-return]

    def _read_group(self, group: int) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file, number = self.row_groups[group]
        try:
            with pq.ParquetFile(self.paths[file]) as parquet:
                is_struct = pa.types.is_struct(parquet.schema_arrow.field(self.column).type)
                leaf = f"{self.column}.bytes" if is_struct else self.column
                images = parquet.read_row_group(number, [leaf])[self.column].combine_chunks()
                return images.field("bytes") if is_struct else images
        except (pa.ArrowException, OSError, KeyError, ValueError) as e:
            raise _unreadable(self.paths[file], e) from None

    def name(self, index: int) -> str:
        """The parquet file, and the number of the image in it, from 0."""
        file, _ = self.row_groups[int(self.groups[index])]
        first_group = next(i for i, (f, _) in enumerate(self.row_groups) if f == file)
        return f"{self.paths[file]}, image {index - int(self.starts[first_group])}"


def _unreadable(path: Path, why: object) -> UserError:
    reason = one_line(why) if isinstance(why, BaseException) else str(why)
    return UserError(f"{path}: not a readable parquet file of images and labels: {reason}")


def list_parquet(
    paths: Sequence[Path], known: Classes | None = None, default: Sequence[str] = ()
) -> Listing | None:
    """The images and labels of parquet files that belong together, or None where they have no
    labels.

    Args:
        paths: the files of one part.
        known: the classes of the training part, for another part, which must have no others; they
            are matched by name.
        default: names of the classes where the files name none.

    Raises:
        UserError: a file is damaged, or no parquet file of images and labels; or labels are missing
            or wrong.
    """
    images, labels = _read_parquet(paths)
    filled = {path: own for path, own in labels.items() if len(own.numbers)}
    if not filled:
        raise UserError(f"{paths[0]}: no images in it")
    without = [path for path, own in filled.items() if own.are_missing]
    if len(without) == len(filled):
        return None
    if without:
        raise UserError(f"{without[0]}: has no labels, but other files of its part have")
    if known is None:
        known = _training_classes(list(filled.values()), default, str(paths[0].parent))
    numbers = [matched(own, known, str(path)) for path, own in filled.items()]
    return Listing(images, np.concatenate(numbers), known.names, known.origin)


def _read_parquet(paths: Sequence[Path]) -> tuple[Parquet, dict[Path, Labels]]:
    """The images of parquet files, and the labels of each file.

    Raises:
        UserError: see `list_parquet`.
    """
    rows: list[tuple[int, int, int]] = []
    labels: dict[Path, Labels] = {}
    columns: set[str] = set()
    for number, path in enumerate(paths):
        column, labels[path], counts = _read_labels(path)
        columns.add(column)
        rows += [(number, group, count) for group, count in enumerate(counts)]
    if len(columns) > 1:
        raise UserError(
            f"{paths[0].parent}: the columns of images have different names:"
            f" {', '.join(sorted(columns))}"
        )
    return Parquet(paths, columns.pop(), rows), labels


def _training_classes(files: Sequence[Labels], default: Sequence[str], where: str) -> Classes:
    """The classes of a training part; `default` where no file names any."""
    if default and all(labels.classes.origin == "numbers" for labels in files):
        return Classes(list(default), "declared")
    return common_classes(files, where)


def _read_labels(path: Path) -> tuple[str, Labels, list[int]]:
    """Name of the column of images, labels, and the number of rows of each row group.

    Raises:
        UserError: see `list_parquet`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as parquet:
            schema, metadata = parquet.schema_arrow, parquet.metadata
            features = _features(schema.metadata)
            image, label = _columns(path, schema, features)
            counts = [metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            if label is None:
                return image, missing(sum(counts)), counts
            column = parquet.read([label])[label]
            return image, of_column(column, _names(features.get(label)), str(path)), counts
    except (pa.ArrowException, OSError, KeyError, TypeError, AttributeError) as e:
        raise _unreadable(path, e) from None


def _columns(path: Path, schema: Any, features: dict[str, Any]) -> tuple[str, str | None]:
    """Names of the columns of images and of labels (None where only the latter is missing).

    Raises:
        UserError: there is no column of encoded images.
    """
    import pyarrow as pa

    image = _first_column(schema, [*IMAGE_COLUMNS, *_of_kind(features, "Image")])
    if image is None:
        raise _unreadable(path, f"it has the columns {', '.join(schema.names)}; {READ_COLUMNS}")
    kind = _type_of_images(schema.field(image).type)
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise _unreadable(
            path,
            f"column {image} has the type {kind}: must be image files, as bytes or {{bytes, path}}",
        )
    return image, _first_column(schema, [*LABEL_COLUMNS, *_of_kind(features, "ClassLabel")])


def _first_column(schema: Any, names: Sequence[str]) -> str | None:
    """The first of the names that is a column's."""
    return next((name for name in names if name in schema.names), None)


def _of_kind(features: dict[str, Any], kind: str) -> list[str]:
    """Names of the columns that the Hub's files declare as of this kind."""
    return [
        name
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == kind
    ]


def _type_of_images(kind: Any) -> Any:
    """The type of a column's image files: that of the field "bytes" of a struct, if it has one."""
    import pyarrow as pa

    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return kind.field("bytes").type
    return kind


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """Column -> how the Hub's files describe it."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _names(feature: Any) -> list[str]:
    names = feature.get("names") if isinstance(feature, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def list_classes(folder: Path) -> Listing:
    """Images in one folder per class; the classes are the folders' names, sorted.

    Raises:
        UserError: fewer than two classes, or a class without images.
    """
    names = [path.name for path in visible_folders(folder)]
    if len(names) < 2:
        names_found = f"only {names[0]!r}" if names else "none"
        raise UserError(
            f"{folder}: needs one folder of images for each of two classes or more, found"
            f" {names_found}; known are {KNOWN}"
        )
    files: list[Path] = []
    labels: list[int] = []
    unread: list[Path] = []
    for label, name in enumerate(names):
        images, left_out = _images_of_class(folder / name)
        files += images
        labels += [label] * len(images)
        unread += left_out
    listing = Listing(Files(files), np.array(labels, dtype=np.int64), names)
    listing.notes += _notes_on_left_out(folder, unread)
    return listing


def _images_of_class(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images below a folder, and image files in formats that are not read.

    Raises:
        UserError: there are no images.
    """
    files = files_below(folder)
    known = suffixes()
    images = [path for path in files if path.suffix.lower() in known]
    if not images:
        raise UserError(f"{folder}: a class without images ({', '.join(known)})")
    return images, [path for path in files if path.suffix.lower() in UNREAD_SUFFIXES]


def _notes_on_left_out(folder: Path, unread: Sequence[Path]) -> Iterator[str]:
    """What the user should know of images that are not used."""
    if unread:
        kinds = ", ".join(sorted({path.suffix.lower() for path in unread}))
        yield (
            f"{folder}: {len(unread)} files are left out ({kinds}): save them as PNG or JPEG to use"
            " them"
        )
    if loose := loose_images(folder):
        yield f"{folder}: {len(loose)} images that are in no class are left out"


class Hub:
    """Rows of a data set of the package `datasets`, which maps its files into memory.

    Args:
        rows: `datasets.Dataset`.
        column: name of the column of images.
        name: of the data set, for messages.
    """

    def __init__(self, rows: Any, column: str, name: str) -> None:
        self.rows, self.column, self._name = rows, column, name
        self.groups, self.pool = np.arange(len(rows)), 1

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> bytes | Path:
        """The content of the image file in a row, or its path where the row has only that.

        Raises:
            UserError: the row holds no image.
        """
        image = self.rows[index][self.column] or {}
        if not (image.get("bytes") or image.get("path")):
            raise UserError(f"{self.name(index)}: holds no image")
        return image["bytes"] or Path(image["path"])

    def name(self, index: int) -> str:
        """The name of the data set, and the number of the row, from 0."""
        return f"{self._name}, image {index}"


def load_hub(name: str, configuration: str | None) -> Mapping[str, Any]:
    """The parts of an image classification data set that the package `datasets` can load.

    Args:
        name: of a data set on the Hugging Face Hub ("ylecun/mnist"), or a local folder.
        configuration: which of its configurations, where it has several.

    Raises:
        UserError: the package is missing, or the data set cannot be loaded.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            "--set hub: needs the package datasets: pip install 'biprop[hub]'"
        ) from None
    try:
        return datasets.load_dataset(name, configuration)  # type: ignore[no-any-return]
    except Exception as e:  # whatever a loader of any format may raise
        hint = "; pass --hub-config" if "onfig name" in str(e) else ""
        raise UserError(
            f"--data {name}: cannot be loaded as a data set: {one_line(e)}{hint}"
        ) from None


def list_hub(rows: Any, where: str, known: Classes | None = None) -> Listing | None:
    """One part of such a data set, or None where it has no labels. Arguments as of `list_parquet`.

    Raises:
        UserError: it has no images; or labels are missing or wrong.
    """
    import datasets
    import pyarrow as pa

    features = rows.features
    image, label = _hub_columns(features)
    if image is None:
        raise UserError(f"{where}: needs a column of images, has {', '.join(features)}")
    if not len(rows):
        raise UserError(f"{where}: no images in it")
    if label is None:
        return None
    names = getattr(features[label], "names", None) or []
    labels = of_column(pa.chunked_array([pa.array(list(rows[label]))]), names, where)
    if labels.are_missing:
        return None
    classes = known or common_classes([labels], where)
    numbers = matched(labels, classes, where)
    encoded = rows.cast_column(image, datasets.Image(decode=False))
    return Listing(Hub(encoded, image, where), numbers, classes.names, classes.origin)


def _hub_columns(features: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Names of the columns of images and of labels of a Hub data set."""
    import datasets

    def of_type(kind: type) -> list[str]:
        return [name for name, feature in features.items() if isinstance(feature, kind)]

    named = [name for name in LABEL_COLUMNS if name in features]
    labels = [*named, *of_type(datasets.ClassLabel)]
    return next(iter(of_type(datasets.Image)), None), next(iter(labels), None)
