"""Encoded images by number, wherever they lie: files in folders, rows of parquet files, rows of a Hub data set.

What reads them (into memory, or streamed while training) does not know which. All classes here can be sent to worker processes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, one_line
from ..pictures import in_folder

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "fine_label", "labels")
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
    """One part (training or test) of a data set: encoded images, labels [N] int64, and the names of the classes."""

    items: Items
    labels: NDArray[np.int64]
    classes: list[str]


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


class Parquet:
    """Images in the row groups of parquet files: a column of {bytes, path}, as on the Hugging Face Hub.

    A row group is read whole and the last few are kept: memory is bounded whatever the size of the files.
    """

    def __init__(self, paths: Sequence[Path], column: str, rows: Sequence[tuple[int, int, int]]) -> None:
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
            raise UserError(f"{self.name(index)}: holds no image, only a path")
        return data  # type: ignore[no-any-return]

    def _read_group(self, group: int) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file, number = self.row_groups[group]
        try:
            with pq.ParquetFile(self.paths[file]) as parquet:
                return parquet.read_row_group(number, [f"{self.column}.bytes"])[self.column].combine_chunks().field("bytes")
        except (pa.ArrowException, OSError, KeyError) as e:
            raise UserError(f"{self.paths[file]}: not a readable parquet file of images and labels: {one_line(e)}") from None

    def name(self, index: int) -> str:
        file, _ = self.row_groups[int(self.groups[index])]
        first_group = next(i for i, (f, _) in enumerate(self.row_groups) if f == file)
        return f"{self.paths[file]}, image {index - int(self.starts[first_group])}"


def list_parquet(paths: Sequence[Path]) -> Listing:
    """The images and labels of parquet files that belong together.

    Class names are those that the Hub writes into the files, or else the numbers of the labels.

    Raises:
        UserError: a file is damaged, or no parquet file of images and labels.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[tuple[int, int, int]] = []
    labels: list[NDArray[np.int64]] = []
    classes: list[str] = []
    image_column = ""
    for number, path in enumerate(paths):
        try:
            with pq.ParquetFile(path) as parquet:
                names = parquet.schema_arrow.names
                image_column = next(c for c in IMAGE_COLUMNS if c in names)
                label_column = next(c for c in LABEL_COLUMNS if c in names)
                if parquet.schema_arrow.field(image_column).type.get_field_index("bytes") < 0:
                    raise KeyError(f"column {image_column} has no bytes")
                labels.append(parquet.read([label_column])[label_column].to_numpy().astype(np.int64))
                rows += [(number, g, parquet.metadata.row_group(g).num_rows) for g in range(parquet.num_row_groups)]
                classes = classes or _class_names(parquet.schema_arrow.metadata, label_column)
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, AttributeError, StopIteration) as e:
            what = one_line(e) if str(e) else f"it has the columns {', '.join(names)}"
            raise UserError(f"{path}: not a readable parquet file of images and labels: {what}") from None
    all_labels = np.concatenate(labels)
    return Listing(Parquet(paths, image_column, rows), all_labels, classes or [str(i) for i in range(int(all_labels.max()) + 1)])


def _class_names(metadata: dict[bytes, bytes] | None, column: str) -> list[str]:
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (KeyError, ValueError, TypeError):
        return []


def list_classes(folder: Path) -> Listing:
    """Images in one folder per class; the classes are the folders' names, sorted.

    Raises:
        UserError: fewer than two classes, or a class without images.
    """
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise UserError(f"{folder}: needs one folder of images for each of two classes or more, found {found}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        own = in_folder(folder / name)
        if not own:
            raise UserError(f"{folder / name}: a class without images")
        files += own
        labels += [label] * len(own)
    return Listing(Files(files), np.array(labels, dtype=np.int64), classes)


class Hub:
    """Rows of a data set of the package `datasets`, which maps its files into memory."""

    def __init__(self, rows: Any, column: str, name: str) -> None:
        self.rows, self.column, self._name = rows, column, name
        self.groups, self.pool = np.arange(len(rows)), 1

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> bytes | Path:
        item = self.rows[index][self.column]
        return item["bytes"] or Path(item["path"])

    def name(self, index: int) -> str:
        return f"{self._name}, image {index}"


def list_hub(name: str) -> tuple[Listing, Listing | None]:
    """Training and test part of an image classification data set that the package `datasets` can load.

    Args:
        name: of a data set on the Hugging Face Hub ("ylecun/mnist"), or a local folder.

    Raises:
        UserError: the package is missing, the data set cannot be loaded, or it has no images and labels.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("--set hub: needs the package datasets: pip install 'biprop[hub]'") from None
    try:
        parts = datasets.load_dataset(name)
    except Exception as e:  # whatever a loader of any format may raise
        raise UserError(f"--data {name}: cannot be loaded as a data set: {one_line(e)}") from None

    def listing(part: str) -> Listing:
        rows = parts[part]
        features = rows.features
        image = next((c for c, f in features.items() if isinstance(f, datasets.Image)), None)
        label = next((c for c in LABEL_COLUMNS if c in features), None)
        label = label or next((c for c, f in features.items() if isinstance(f, datasets.ClassLabel)), None)
        if image is None or label is None:
            raise UserError(f"--data {name}: needs a column of images and one of labels, has {', '.join(features)}")
        labels = np.array(rows[label], dtype=np.int64)
        classes = getattr(features[label], "names", None) or [str(i) for i in range(int(labels.max()) + 1)]
        encoded = rows.cast_column(image, datasets.Image(decode=False))
        return Listing(Hub(encoded, image, f"{name} ({part})"), labels, list(classes))

    if "train" not in parts:
        raise UserError(f"--data {name}: has no part 'train', only {', '.join(parts)}")
    test = next((part for part in ("test", "validation", "valid", "val") if part in parts), None)
    return listing("train"), listing(test) if test else None
