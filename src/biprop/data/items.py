"""Encoded images by number, wherever they lie: files in folders, rows of parquet files, rows of a
Hub data set.

What reads them (into memory, or streamed while training) does not know which. All classes here can
be sent to worker processes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, one_line
from ..images import UNREAD_SUFFIXES, files_below, suffixes
from .labels import Classes, Labels, Origin, common_classes, matched, missing, of_column
from .layouts import KNOWN, loose_pictures, visible_folders

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "fine_label", "labels")
READ_COLUMNS = (
    f"images are read from {' or '.join(IMAGE_COLUMNS)}, labels from {', '.join(LABEL_COLUMNS)}"
)
IMAGES_KEPT = 2000


class Items(Protocol):
    """A list of encoded images.

    Attributes:
        groups: [N] int64: the images of one group are read together.
        pool: how many groups are kept; a reader that keeps to that many at a time reads each once.
    """

    groups: NDArray[np.int64]
    pool: int

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes | Path:
        """An encoded image, or the file that holds it."""
        ...

    def name(self, index: int) -> str:
        """For messages."""
        ...


@dataclass
class Listing:
    """One part of a data set.

    Attributes:
        items: its encoded images, N of them.
        labels: [N] int64, places in `classes`.
        classes: names of the classes.
        origin: where the names come from, see `labels.Classes`.
        notes: what the user should know, a line each.
    """

    items: Items
    labels: NDArray[np.int64]
    classes: list[str]
    origin: Origin = "declared"
    notes: list[str] = field(default_factory=list)

    def subset(self, chosen: NDArray[np.bool_]) -> Listing:
        """Those where `chosen` [N] is true."""
        return replace(
            self,
            items=_Some(self.items, np.flatnonzero(chosen)),
            labels=self.labels[chosen],
            notes=[],
        )

    def followed_by(self, other: Listing) -> Listing:
        """Both, as one part with the classes of this one."""
        return replace(
            self,
            items=_Joined(self.items, other.items),
            labels=np.concatenate([self.labels, other.labels]),
        )


class Files:
    """Images in files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.groups, self.pool = np.arange(len(paths)), 1

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Path:
        return self.paths[index]

    def name(self, index: int) -> str:
        return str(self.paths[index])


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


class _Joined:
    """The items of two lists, one after the other."""

    def __init__(self, first: Items, second: Items) -> None:
        self.first, self.second = first, second
        end = int(first.groups.max(initial=-1)) + 1
        self.groups, self.pool = (
            np.concatenate([first.groups, second.groups + end]),
            min(first.pool, second.pool),
        )

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

    A row group is read whole and the last few are kept: memory is bounded whatever the size of the
    files.
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
        file, _ = self.row_groups[int(self.groups[index])]
        first_group = next(i for i, (f, _) in enumerate(self.row_groups) if f == file)
        return f"{self.paths[file]}, image {index - int(self.starts[first_group])}"


def _unreadable(path: Path, why: object) -> UserError:
    said = one_line(why) if isinstance(why, BaseException) else str(why)
    return UserError(f"{path}: not a readable parquet file of images and labels: {said}")


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
    rows: list[tuple[int, int, int]] = []
    labels: list[Labels] = []
    columns = []
    for number, path in enumerate(paths):
        column, found, counts = _read_labels(path)
        columns.append(column)
        labels.append(found)
        rows += [(number, group, count) for group, count in enumerate(counts)]
    if len(set(columns)) > 1:
        raise UserError(
            f"{paths[0].parent}: the columns of images have different names:"
            f" {', '.join(sorted(set(columns)))}"
        )
    filled = [
        (path, found) for path, found in zip(paths, labels, strict=True) if len(found.numbers)
    ]
    if not filled:
        raise UserError(f"{paths[0]}: no images in it")
    without = [path for path, found in filled if found.are_missing]
    if len(without) == len(filled):
        return None
    if without:
        raise UserError(f"{without[0]}: has no labels, but other files of its part have")
    if known is None:
        known = _training_classes([found for _, found in filled], default, str(paths[0].parent))
    numbers = [matched(found, known, str(path)) for path, found in filled]
    return Listing(
        Parquet(paths, columns[0], rows), np.concatenate(numbers), known.names, known.origin
    )


def _training_classes(files: Sequence[Labels], default: Sequence[str], where: str) -> Classes:
    if default and all(labels.classes.origin == "numbers" for labels in files):
        return Classes(list(default), "declared")
    return common_classes(files, where)


def _read_labels(path: Path) -> tuple[str, Labels, list[int]]:
    """Name of the column of images, labels, and how many rows each row group has.

    Raises:
        UserError: see `list_parquet`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as parquet:
            schema = parquet.schema_arrow
            features = _features(schema.metadata)
            image, label = _columns(path, schema, features)
            counts = [
                parquet.metadata.row_group(group).num_rows
                for group in range(parquet.num_row_groups)
            ]
            if label is None:
                return image, missing(sum(counts)), counts
            names = _names(features.get(label))
            return image, of_column(parquet.read([label])[label], names, str(path)), counts
    except (pa.ArrowException, OSError, KeyError, TypeError, AttributeError) as e:
        raise _unreadable(path, e) from None


def _columns(path: Path, schema: Any, features: dict[str, Any]) -> tuple[str, str | None]:
    """Names of the columns of images and of labels (None where only the latter lack).

    Raises:
        UserError: there is no column of encoded images.
    """
    import pyarrow as pa

    def of_kind(kind: str) -> list[str]:
        return [
            name
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == kind
        ]

    images = [*IMAGE_COLUMNS, *of_kind("Image")]
    image = next((name for name in images if name in schema.names), None)
    if image is None:
        raise _unreadable(path, f"it has the columns {', '.join(schema.names)}; {READ_COLUMNS}")
    kind = schema.field(image).type
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise _unreadable(
            path,
            f"column {image} has the type {kind}: must be image files, as bytes or {{bytes, path}}",
        )
    labels = [*LABEL_COLUMNS, *of_kind("ClassLabel")]
    return image, next((name for name in labels if name in schema.names), None)


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """What the Hub's files say of their columns."""
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
        found = f"only {names[0]!r}" if names else "none"
        raise UserError(
            f"{folder}: needs one folder of images for each of two classes or more, found {found};"
            f" known are {KNOWN}"
        )
    files: list[Path] = []
    labels: list[int] = []
    others: list[Path] = []
    for label, name in enumerate(names):
        everything = files_below(folder / name)
        known = suffixes()
        own = [path for path in everything if path.suffix.lower() in known]
        others += [path for path in everything if path.suffix.lower() in UNREAD_SUFFIXES]
        if not own:
            raise UserError(f"{folder / name}: a class without images ({', '.join(known)})")
        files += own
        labels += [label] * len(own)
    listing = Listing(Files(files), np.array(labels, dtype=np.int64), names)
    if others:
        kinds = ", ".join(sorted({path.suffix.lower() for path in others}))
        listing.notes.append(
            f"{folder}: {len(others)} files are left out ({kinds}): save them as PNG or JPEG to use"
            " them"
        )
    if loose := loose_pictures(folder):
        listing.notes.append(f"{folder}: {len(loose)} images that are in no class are left out")
    return listing


class Hub:
    """Rows of a data set of the package `datasets`, which maps its files into memory."""

    def __init__(self, rows: Any, column: str, name: str) -> None:
        self.rows, self.column, self._name = rows, column, name
        self.groups, self.pool = np.arange(len(rows)), 1

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> bytes | Path:
        item = self.rows[index][self.column] or {}
        if not (item.get("bytes") or item.get("path")):
            raise UserError(f"{self.name(index)}: holds no image")
        return item["bytes"] or Path(item["path"])

    def name(self, index: int) -> str:
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
    image = next((c for c, f in features.items() if isinstance(f, datasets.Image)), None)
    if image is None:
        raise UserError(f"{where}: needs a column of images, has {', '.join(features)}")
    if not len(rows):
        raise UserError(f"{where}: no images in it")
    label = next((c for c in LABEL_COLUMNS if c in features), None)
    label = label or next(
        (c for c, f in features.items() if isinstance(f, datasets.ClassLabel)), None
    )
    if label is None:
        return None
    names = getattr(features[label], "names", None) or []
    labels = of_column(pa.chunked_array([pa.array(list(rows[label]))]), names, where)
    if labels.are_missing:
        return None
    classes = known or common_classes([labels], where)
    encoded = rows.cast_column(image, datasets.Image(decode=False))
    return Listing(
        Hub(encoded, image, where), matched(labels, classes, where), classes.names, classes.origin
    )
