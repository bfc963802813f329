"""Labels of images as columns hold them: checked, and matched between files and parts by the names
of the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

MOST_CLASSES = 1 << 20
"""As many as a ticket can have."""
Origin = Literal["numbers", "declared", "texts"]


@dataclass(frozen=True)
class Classes:
    """Names of classes, in the order of the labels, and where they come from.

    Attributes:
        names: one a class.
        origin: "numbers", nothing names the classes; "declared", the file lists them and its labels
            are places in that list; or "texts", the labels are the names themselves.
    """

    names: list[str]
    origin: Origin


@dataclass(frozen=True)
class Labels:
    """The labels of one file, [N] int64: places in `classes.names`, or just numbers where nothing
    names the classes.

    A part without labels has -1 everywhere, as the test part of ImageNet has in the Hub's files.
    """

    numbers: NDArray[np.int64]
    classes: Classes

    @property
    def are_missing(self) -> bool:
        return bool(len(self.numbers)) and bool((self.numbers == -1).all())


def missing(count: int) -> Labels:
    """Of a part without labels."""
    return Labels(np.full(count, -1, dtype=np.int64), Classes([], "numbers"))


def of_column(column: Any, declared: Sequence[str], where: str) -> Labels:
    """The labels in a column of pyarrow, which may hold whole numbers (also as floats), booleans or
    texts.

    Args:
        column: `pyarrow.ChunkedArray`.
        declared: names of the classes, if the file lists them.
        where: the file, for messages.

    Raises:
        UserError: a label is missing, negative, fractional, too large, or of another type.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if len(column) and column.null_count == len(column):
        return missing(len(column))
    if column.null_count:
        row = next(i for i, value in enumerate(column) if not value.is_valid)
        raise UserError(f"{where}: the label of row {row} is missing (null)")
    kind = column.type
    is_text = (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view"
    )
    if is_text:
        return _of_texts(column.to_pylist(), where)
    if pa.types.is_boolean(kind):
        declared = declared or ("false", "true")
        column = column.cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise UserError(
            f"{where}: labels of type {kind}: must be whole numbers or texts, one an image"
        )
    numbers = _whole(column.to_numpy(), where)
    _check_range(numbers, len(declared), where)
    return Labels(
        numbers, Classes(list(declared), "declared") if declared else Classes([], "numbers")
    )


def _of_texts(texts: Sequence[str], where: str) -> Labels:
    names = sorted(set(texts))
    if len(names) > MOST_CLASSES:
        raise UserError(f"{where}: {len(names):,} different labels: more than {MOST_CLASSES:,}")
    place = {name: number for number, name in enumerate(names)}
    return Labels(
        np.array([place[text] for text in texts], dtype=np.int64), Classes(names, "texts")
    )


def _whole(values: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Whole numbers that int64 holds, or a mistake."""
    if values.dtype.kind == "f":
        odd = np.flatnonzero(~(np.floor(values) == values))  # also where it is not a number
        if len(odd):
            raise UserError(
                f"{where}: the label of row {odd[0]} is {values[odd[0]]:g}: must be a whole number"
            )
    large = np.flatnonzero(values >= MOST_CLASSES)
    if len(large):
        value = int(values[large[0]]) if np.isfinite(values[large[0]]) else values[large[0]]
        raise UserError(
            f"{where}: the label of row {large[0]} is {value}: must be 0 .. classes - 1"
        )
    if values.dtype.kind == "f" and len(values) and not np.isfinite(values).all():
        raise UserError(f"{where}: a label is infinite: must be 0 .. classes - 1")
    return values.astype(np.int64)


def _check_range(numbers: NDArray[np.int64], classes: int, where: str) -> None:
    """Raise UserError unless labels are 0 .. classes - 1 (0 classes: any number), or all -1."""
    if len(numbers) and (numbers == -1).all():
        return
    odd = np.flatnonzero((numbers < 0) | ((numbers >= classes) & (classes > 0)))
    if len(odd):
        rule = f"0 .. {classes - 1}" if classes else "0 .. classes - 1"
        raise UserError(f"{where}: the label of row {odd[0]} is {numbers[odd[0]]}: must be {rule}")


def common_classes(files: Sequence[Labels], where: str) -> Classes:
    """The classes of the files of a training part.

    Raises:
        UserError: the files name different classes, or nothing names them and the numbers have
            gaps.
    """
    declared = [labels.classes for labels in files if labels.classes.origin == "declared"]
    if declared:
        return declared[0]
    texts = [labels.classes.names for labels in files if labels.classes.origin == "texts"]
    if texts:
        return Classes(sorted({name for names in texts for name in names}), "texts")
    counts = np.bincount(np.concatenate([labels.numbers for labels in files]))
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise UserError(
            f"{where}: labels run to {len(counts) - 1}, but no training image has label {empty[0]}:"
            " must be 0 .. classes - 1, with images of each"
        )
    return Classes([str(number) for number in range(len(counts))], "numbers")


def matched(labels: Labels, classes: Classes, where: str) -> NDArray[np.int64]:
    """The labels as places in `classes`: by name, or as they are where one side has numbers only.

    Raises:
        UserError: a class that `classes` lacks.
    """
    own, known = labels.classes, classes.names
    if own.origin == "numbers" and classes.origin != "texts":
        _check_range(labels.numbers, len(known), where)
        return labels.numbers
    names = own.names
    if own.origin == "numbers":
        names = [str(number) for number in range(int(labels.numbers.max(initial=-1)) + 1)]
    if names == known:
        return labels.numbers
    used = {names[number] for number in np.unique(labels.numbers)}
    odd = sorted(used - set(known))
    if odd or len(set(known)) < len(known):
        raise UserError(
            f"{where}: has other classes than the training images:"
            f" {', '.join(map(repr, (odd or names)[:5]))}"
        )
    place = {name: number for number, name in enumerate(known)}
    table = np.array([place.get(name, -1) for name in names], dtype=np.int64)
    return table[labels.numbers]
